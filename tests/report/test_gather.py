import contextlib
import copy
import json
from types import SimpleNamespace

import pytest

import hcnr
from hcnr.errors import DataError, StatisticsError
from hcnr.models.source import open_source
from hcnr.report.gather import gather
from hcnr.report.page import html
from pairs import config


def test_a_bare_restoration_has_no_results(make_run):
    run = gather(make_run())
    assert (run.name, run.after, run.sweep, run.probe, run.rival) == (
        "restored",
        None,
        None,
        None,
        None,
    )


def test_everything_is_found_in_the_directory(full_run):
    run = gather(full_run)
    assert run.after is not None and run.before is not None and run.base is not None
    assert run.after.macro.f1 == pytest.approx(72.84)
    assert run.after.macro.ci95["f1"] == pytest.approx((72.04, 73.64))
    assert run.before.task_accuracy == 30.65
    assert run.before.tasks_macro.ci95["accuracy"] == pytest.approx((28.35, 33.05))
    assert run.change("refusal_delta") == (28.2, 32.6)
    assert run.change("f1") == (19.7, 22.0)
    assert run.change("accuracy") == (-1.6, 0.9)
    assert run.rival is not None and run.rival.name == "interpolation (0.3)"
    assert run.sweep is not None and len(run.sweep.candidates) == 36
    assert run.after.empty_share == pytest.approx((5 * 3 + 1) / (5 * 4000 + 1441))


def test_given_files_win_over_those_of_the_directory(full_run, tmp_path, invented):
    other = invented.metrics()
    other["macro"]["f1"] = 11.0
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    run = gather(full_run, metrics=path)
    assert run.after is not None and run.after.macro.f1 == 11.0


def test_an_evaluation_may_lie_beside_the_directory(make_run, invented):
    place = make_run(metrics=invented.metrics())
    assert gather(place).after is not None
    (place / "eval").rename(place.with_name("restored-eval"))
    run = gather(place)
    assert run.after is not None and run.after.task_accuracy == 30.30


def test_what_hcnr_run_measured_lies_beside_its_model(make_run, invented):
    place = make_run(metrics=invented.metrics())
    (place / "eval").rename(place.parent / "eval")
    (place.parent / "sweep.json").write_text(json.dumps(invented.sweep()))
    assert gather(place).after is None, "a folder beside any model is not its evaluation"
    (place.parent / "hcnr.yaml").write_text("")
    run = gather(place)
    assert run.after is not None and run.sweep is not None


def test_a_sweep_may_lie_in_its_own_folder(make_run, invented):
    place = make_run()
    (place / "sweep").mkdir()
    (place / "sweep" / "sweep.json").write_text(json.dumps(invented.sweep()))
    assert gather(place).sweep is not None


def rename(metrics, old, new, **entry):
    metrics["fingerprints"] = {}
    metrics["models"] = {new if k == old else k: v for k, v in metrics["models"].items()}
    metrics["models"][new] |= entry


@pytest.mark.parametrize("name", ["tuned", "honest-8b-hotpotqa-cccc3333", "honest-8b-hotpotqa"])
def test_the_tuned_model_is_known_by_its_name(make_run, invented, name):
    metrics = invented.metrics()
    rename(metrics, "honest-8b-hotpotqa", name)
    run = gather(make_run(metrics=metrics))
    assert run.before is not None and run.before.task_accuracy == 30.65
    assert run.others == []


def test_a_fingerprint_wins_over_a_name(make_run, invented):
    metrics = invented.metrics()
    rename(metrics, "honest-8b-hotpotqa", "tuned")
    rename(metrics, "honest-8b", "x")
    metrics["fingerprints"] = {"tuned": "9999", "x": "cccc3333dddd4444"}
    run = gather(make_run(metrics=metrics))
    assert run.before is not None and run.before.task_accuracy == 27.4
    assert [other.name for other in run.others] == ["tuned"]


def test_another_model_is_not_taken_for_the_tuned_one(make_run, invented):
    metrics = invented.metrics()
    rename(metrics, "honest-8b-hotpotqa", "somebody-else")
    run = gather(make_run(metrics=metrics))
    assert run.before is None
    assert [other.name for other in run.others] == ["somebody-else"]


def test_an_evaluation_of_the_tuned_model_is_refused(make_run, invented):
    place = make_run(metrics=invented.metrics() | {"model": "honest-8b-hotpotqa"})
    with pytest.raises(DataError, match="about the tuned model, honest-8b-hotpotqa, not about"):
        gather(place)


def of_model(metrics, name, print_):
    return metrics | {
        "model": name, "fingerprints": metrics["fingerprints"] | ({name: print_} if print_ else {})
    }  # fmt: skip


def pretend(monkeypatch, print_):
    """Let the directory hold a checkpoint of that fingerprint, or none."""
    if print_ is not None:
        found = SimpleNamespace(
            fingerprint=lambda: print_, has_fingerprint=lambda known: known in (print_, EARLIER)
        )
        monkeypatch.setattr("hcnr.models.source.open_source", lambda place: found)


TUNED, OWN, EARLIER = "cccc3333dddd4444", "5555eeee6666ffff", "eeee1111eeee1111"


@pytest.mark.parametrize(
    ("name", "print_", "own"),
    [
        ("restored", OWN, OWN),
        ("restored", EARLIER, OWN),
        ("tuned", OWN, OWN),
        ("anything", None, OWN),
        ("anything", OWN, None),
        ("restored", TUNED, TUNED),
        ("restored", TUNED, None),
    ],
)
def test_an_evaluation_of_the_directorys_model(
    make_run, invented, monkeypatch, name, print_, own
):  # fmt: skip
    pretend(monkeypatch, own)
    run = gather(make_run(metrics=of_model(invented.metrics(), name, print_)))
    assert run.before is not None and run.before.task_accuracy == 30.65


@pytest.mark.parametrize(
    ("name", "print_", "own", "message"),
    [
        ("restored", "9" * 16, OWN, f"is about restored .fingerprint 9+., not .* {OWN}"),
        ("restored", TUNED, OWN, f"is about restored .fingerprint {TUNED}., not about the model"),
        ("tuned", TUNED, TUNED, "is about the tuned model, tuned, not about the restored one"),
    ],
)
def test_an_evaluation_of_another_model_is_refused(
    make_run, invented, monkeypatch, name, print_, own, message
):
    pretend(monkeypatch, own)
    with pytest.raises(DataError, match=message):
        gather(make_run(metrics=of_model(invented.metrics(), name, print_)))


def test_names_tell_models_apart_whose_fingerprints_are_equal(make_run, invented, monkeypatch):
    pretend(monkeypatch, TUNED)
    metrics = of_model(invented.metrics(), "restored", TUNED)
    metrics["fingerprints"]["second-try"] = TUNED
    twin = {"second-try": metrics["models"]["honest-8b"]}
    run = gather(make_run(metrics=metrics | {"models": twin | metrics["models"]}))
    assert run.before is not None and run.before.task_accuracy == 30.65
    assert [other.name for other in run.others] == ["second-try"]


def test_the_fingerprint_of_a_restored_checkpoint(pair, tmp_path, invented):
    out = tmp_path / "restored"
    hcnr.restore(**pair, out=out, config=config(cross_weight_ratio=0.6))
    own = open_source(out).fingerprint()
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(of_model(invented.metrics(), "x", own)))
    assert gather(out, metrics=file).after is not None
    file.write_text(json.dumps(of_model(invented.metrics(), "x", OWN)))
    with pytest.raises(DataError, match=f"is about x .fingerprint {OWN}., not .* {own}"):
        gather(out, metrics=file)


PRINTS = {"base": "aaaa1111bbbb2222", "tuned": TUNED}


@pytest.mark.parametrize("role", ["base", "tuned"])
@pytest.mark.parametrize("part", ["probe", "sweep"])
def test_a_file_of_another_pair_is_refused(make_run, invented, part, role):
    def of_pair(prints):
        return getattr(invented, part)() | {"pair": {"fingerprints": prints}}

    place = make_run(**{part: of_pair(PRINTS)})
    assert gather(place)
    (place / f"{part}.json").write_text(json.dumps(of_pair(PRINTS | {role: "0" * 16})))
    with pytest.raises(DataError, match=f"the {part} is about another pair: its {role} model has"):
        gather(place)


def test_an_interrupted_sweep_recommends_nothing(make_run, invented):
    run = gather(make_run(sweep=invented.sweep() | {"complete": False}))
    assert run.sweep is not None and run.sweep.choice is None and run.sweep.best == []
    page = html(run)
    assert "The sweep was interrupted" in page
    assert "Recommended: " not in page


def test_statistics_bring_their_own_quantiles(make_run, statistics, tmp_path):
    statistics["output"].save(tmp_path / "s.safetensors")
    run = gather(make_run(), statistics=tmp_path / "s.safetensors")
    assert list(run.scores) == statistics["output"].matrices
    with pytest.raises(StatisticsError, match="no statistics file"):
        gather(run.directory, statistics=tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "holds a list, expected a JSON object"),
    ],
)
def test_a_damaged_file_is_named(full_run, content, message):
    (full_run / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=f"sweep.json {message}"):
        gather(full_run)


def test_a_missing_file_is_named(full_run, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.json cannot be read \(No such file"):
        gather(full_run, probe=tmp_path / "nowhere.json")


def test_a_directory_without_a_report(tmp_path):
    with pytest.raises(DataError, match=r"no hcnr_report.json in .*; give the directory that"):
        gather(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON"),
        ('{"pair": {}}', "has no part 'pair.base', expected one; restore again"),
        ("[]", "holds a list, expected an object"),
    ],
)
def test_a_damaged_report(tmp_path, content, message):
    (tmp_path / "hcnr_report.json").write_text(content)
    with pytest.raises(DataError, match=message):
        gather(tmp_path)


def places_of(value, here=()):
    """Every place in the first two levels of a report, and in the first element of a list."""
    children = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, child in children:
        yield (*here, key)
        if isinstance(child, dict | list) and len(here) < 2:
            yield from places_of(child, (*here, key))


@pytest.mark.parametrize("odd", [None, "odd", 7, [], {}, [7], {"a": 1}, True])
def test_an_odd_report_gives_a_page_or_an_error(make_run, invented, odd):
    whole = invented.report(1)
    place = make_run(report=whole)
    for *parents, last in places_of(whole):
        broken = copy.deepcopy(whole)
        inner = broken
        for key in parents:
            inner = inner[key]
        inner[last] = odd
        (place / "hcnr_report.json").write_text(json.dumps(broken))
        with contextlib.suppress(DataError):
            html(gather(place))
        del inner[last]
        (place / "hcnr_report.json").write_text(json.dumps(broken))
        with contextlib.suppress(DataError):
            html(gather(place))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("summary", "restored_neurons", "many", "a str as 'summary.restored_neurons', expected a "
         "whole number"),
        ("summary", "objective", [], "a list as 'summary.objective', expected a number"),
        ("pair", "tuned", None, "a NoneType as 'pair.tuned', expected a text"),
        ("matrices", 0, 7, r"a int as 'matrices\[0\]', expected an object"),
        ("scores", "x", {"honesty": 1}, "a int as 'scores.x.honesty', expected a list"),
    ],
)  # fmt: skip
def test_what_is_odd_in_a_report_is_named(make_run, invented, part, key, value, message):
    report = invented.report(1)
    report[part][key] = value
    with pytest.raises(DataError, match=f"hcnr_report.json holds {message}; restore again"):
        gather(make_run(report=report))


def test_the_rivals_own_row_wins_over_the_curve(make_run, invented):
    metrics = invented.metrics()
    row = {"coefficient": 0.5, "macro": {"f1": 61.0, "refusal_rate_answerable": 9.0}}
    run = gather(make_run(metrics=metrics | {"interpolation_row": row}))
    assert run.rival is not None and run.rival.name == "interpolation (0.5)"
    assert (run.rival.macro.f1, run.rival.macro.refusal_rate_answerable) == (61.0, 9.0)
