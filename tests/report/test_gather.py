import json

import pytest

from hcnr.errors import DataError, StatisticsError
from hcnr.report.gather import gather


def test_a_bare_restoration_has_no_results(make_run):
    run = gather(make_run())
    assert (run.name, run.after, run.sweep, run.probe, run.rival) == (
        "restored",
        None,
        None,
        {},
        None,
    )


def test_everything_is_found_in_the_directory(full_run):
    run = gather(full_run)
    assert run.after is not None and run.before is not None and run.base is not None
    assert run.after.mean("f1") == pytest.approx(72.84)
    assert run.after.mean_interval("f1") == pytest.approx((72.04, 73.64))
    assert run.before.task_accuracy == 30.65
    assert run.before.task_interval == pytest.approx((28.35, 33.05))
    assert run.f1_difference == (19.7, 22.0)
    assert run.task_difference == (-1.6, 0.9)
    assert run.rival is not None and run.rival.name == "interpolation (0.3)"
    assert run.sweep is not None and len(run.sweep.candidates) == 36
    assert run.after.empty_share == pytest.approx((5 * 3 + 1) / (5 * 4000 + 1441))


def test_given_files_win_over_those_of_the_directory(full_run, tmp_path, invented):
    other = invented.metrics()
    other["macro"]["f1"] = 11.0
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    run = gather(full_run, metrics=path)
    assert run.after is not None and run.after.mean("f1") == 11.0


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
    rename(metrics, "honest-8b-hotpotqa", "tuned", fingerprint="9999")
    rename(metrics, "honest-8b", "x", fingerprint="cccc3333dddd4444")
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
    [("", "is no JSON"), ('{"pair": {}}', "has no part 'config'"), ("[]", "has no part 'pair'")],
)
def test_a_damaged_report(tmp_path, content, message):
    (tmp_path / "hcnr_report.json").write_text(content)
    with pytest.raises(DataError, match=message):
        gather(tmp_path)


def test_the_rivals_own_row_wins_over_the_curve(make_run, invented):
    metrics = invented.metrics()
    row = {"coefficient": 0.5, "macro": {"f1": 61.0, "refusal_rate_answerable": 9.0}}
    run = gather(make_run(metrics=metrics | {"interpolation_row": row}))
    assert run.rival is not None and run.rival.name == "interpolation (0.5)"
    assert (run.rival.mean("f1"), run.rival.mean("refusal_rate_answerable")) == (61.0, 9.0)
