import copy
import dataclasses
import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

import hcnr
from families import make, perturbed
from hcnr.ablation import ablation
from hcnr.errors import ConfigError, HcnrError, OutputError, StatisticsError
from hcnr.front import Scores
from hcnr.grid import Grid
from hcnr.sweep import _Trials, sweep
from hcnr.sweep_result import Candidate, SweepResult, print_sweep
from pairs import HONESTY, TASK, config, tokenizer

GRID = Grid(
    in_weight=(0.3, 0.7), cross_weight=(0.6, 0.2, 0.4), task_weight=(0.0, 2.0)
)  # fmt: skip


def digest(model: Any) -> str:
    """Of every parameter and buffer, bit for bit."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Judge:
    """Scores that follow from the weights alone, and what it was shown."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[str] = []
        self.fail_at = fail_at

    def __call__(self, model: Any) -> Scores:
        assert not model.training
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        found = digest(model)
        self.seen.append(found)
        numbers = [int(found[place : place + 4], 16) / 655.36 for place in (0, 4, 8)]
        return Scores(*numbers)


def models(pair: Any) -> dict[str, Any]:
    return {r: AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned")}


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("where", ["directories", "memory"])
def test_every_candidate_is_what_restore_makes_bit_for_bit(pair, statistics, axis, where):
    given: Any = pair if where == "directories" else models(pair)
    judge = Judge()
    found = sweep(
        given["base"], given["tuned"], statistics=statistics[axis], grid=GRID, evaluate=judge,
        config=config(axis=axis), ablate=True, interpolation=(),
    )  # fmt: skip
    made = [*found.candidates, *found.ablation]
    assert len(found.candidates) == 2 * 3 * 5
    assert len(judge.seen) == 2 + len(made)
    for row, weights in zip(made, judge.seen[2:], strict=True):
        wanted = hcnr.restore(
            pair["base"], pair["tuned"], statistics=statistics[axis], config=config(**row.settings)
        )
        assert weights == digest(wanted), row.settings
        restored = wanted.__dict__["hcnr_report"]["summary"]["restored_neurons"]
        assert row.neurons == restored
    originals = models(pair)
    assert judge.seen[:2] == [digest(originals["base"]), digest(originals["tuned"])]
    assert len(set(judge.seen)) > 20
    if where == "memory":
        assert [digest(given[r]) for r in ("base", "tuned")] == judge.seen[:2]


def test_bfloat16_checkpoints_too(tmp_path):
    base = make("llama")
    for role, model in (("base", base), ("tuned", perturbed(base))):
        model.bfloat16().save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
    given: Any = {"base": tmp_path / "base", "tuned": tmp_path / "tuned"}
    settings = config(compensation="balanced", all_hessians=True)
    measured = hcnr.measure(**given, honesty=HONESTY, task=TASK, config=settings)
    judge = Judge()
    found = sweep(
        **given, statistics=measured, evaluate=judge, config=config(), interpolation=(0.5, 1.0),
        grid=Grid((0.5,), (0.2, 0.6)),
    )  # fmt: skip
    for row, weights in zip(found.candidates, judge.seen[2:], strict=False):
        made = hcnr.restore(**given, statistics=measured, config=config(**row.settings))
        assert weights == digest(made)
        assert made.dtype == torch.bfloat16
    assert judge.seen[-1] == judge.seen[0] == digest(models(given)["base"])


@pytest.mark.parametrize("fail_at", [2, 9, 40])
def test_a_model_in_memory_is_as_it_was_after_an_interruption(pair, statistics, fail_at, tmp_path):
    given = models(pair)
    given["tuned"].train()
    before = digest(given["tuned"])
    with pytest.raises(KeyboardInterrupt):
        sweep(
            **given, statistics=statistics["output"], grid=GRID, evaluate=Judge(fail_at),
            config=config(), out=tmp_path / "sweep",
        )  # fmt: skip
    assert digest(given["tuned"]) == before
    assert given["tuned"].training
    kept = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert not kept["complete"]
    assert len(kept["candidates"]) + len(kept["interpolation"]) == fail_at - 2
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.json"]


def test_one_measurement_serves_the_whole_grid(pair):
    given: Any = {k: pair[k] for k in ("base", "tuned")}
    measured = sweep(
        **given, honesty=HONESTY, task=TASK, grid=GRID, evaluate=Judge(), config=config(),
        tokenizer=tokenizer(), interpolation=(),
    )  # fmt: skip
    for row in measured.candidates[::7]:
        judge = Judge()
        judge(hcnr.restore(**given, honesty=HONESTY, task=TASK, config=config(**row.settings)))
        again = Judge()
        alone = sweep(
            **given, honesty=HONESTY, task=TASK, evaluate=again, config=config(), interpolation=(),
            grid=Grid(
                (row.settings["in_weight_ratio"],), (row.settings["cross_weight_ratio"],),
                (row.settings["compensation"],), (row.settings.get("task_weight", 1.0),),
            ),
        )  # fmt: skip
        assert again.seen[2:] == judge.seen
        assert [one.scores for one in alone.candidates] == [row.scores]


def test_the_file_says_what_was_found(pair, statistics, tmp_path):
    judge = Judge()
    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], evaluate=judge,
        grid=Grid((0.5,), (0.4, 0.6), ("none", "balanced"), (3.0,)), config=config(), ablate=True,
        interpolation=(0.0, 0.5, 1.0), out=tmp_path / "new" / "place", max_task_drop=5,
    )  # fmt: skip
    kept = json.loads((tmp_path / "new" / "place" / "sweep.json").read_text())
    assert kept["complete"]
    assert [c["settings"] for c in kept["candidates"]] == [
        {"axis": "output", "in_weight_ratio": 0.5, "cross_weight_ratio": cross,
         "compensation": kind, **({"task_weight": 3.0} if kind == "balanced" else {})}
        for kind in ("none", "balanced") for cross in (0.4, 0.6)
    ]  # fmt: skip
    for row in kept["candidates"]:
        assert {"honesty_f1", "refusal_delta", "task_accuracy", "pareto", "recommended",
                "neurons", "seconds"} <= set(row)  # fmt: skip
        assert row["seconds"] > 0
    assert [row["pareto"] for row in kept["candidates"]] == found.pareto
    chosen = [row for row in kept["candidates"] if row["recommended"]]
    assert [row["settings"] for row in chosen] == [kept["recommended"]["settings"]]
    assert kept["recommended"]["reason"] == found.recommendation.reason
    assert kept["max_task_drop"] == 5
    # The ends of the rival's curve are the two models themselves.
    curve = kept["interpolation"]
    assert [point.pop("coefficient") for point in curve] == [0.0, 0.5, 1.0]
    assert curve[0] == kept["tuned"]
    assert curve[2] == kept["base"]
    assert judge.seen[-3] == judge.seen[1]
    assert judge.seen[-1] == judge.seen[0]
    assert [row["name"] for row in kept["ablation"]] == list(ablation(config()))
    # The statistics were given, so what a restoration costs is not known.
    assert kept["cost"]["ratio"] is kept["cost"]["one_restoration"] is None
    assert kept["config"]["samples"] == 8
    assert kept["pair"]["base"] == str(pair["base"])
    assert kept["pair"]["fingerprints"] == statistics["output"].fingerprints
    assert kept["data"] == json.loads(json.dumps(statistics["output"].data))
    assert {"hcnr", "torch"} <= kept["versions"].keys()
    assert kept["validation"] == kept["validation_settings"] == {}
    assert kept["refuse_all"] is None


def test_the_cost_is_that_of_one_measuring_pass_and_the_dearest_candidate(capsys):
    class Selections:
        seconds = 6.0

        def __len__(self) -> int:
            return 3

    work: Any = SimpleNamespace(seconds={"compensate": 5.0, "apply": 1.0}, dearest=4.0)
    selections: Any = Selections()
    judge: Any = SimpleNamespace(seconds=2.0)
    found = SweepResult(Scores(1, 1, 1), Scores(1, 1, 1), 2.0, {"axis": "output"})
    _Trials(found, judge, work, selections, 10.0, False, None).keep()
    assert found.cost == {
        "measure": 10.0, "select": 6.0, "compensate": 5.0, "apply": 1.0, "evaluate": 2.0,
        "one_restoration": 10.0 + 6.0 / 3 + 4.0, "ratio": 22.0 / 16.0,
    }  # fmt: skip
    print_sweep(found, Console(width=80))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "cost 1.38 times one restoration (this sweep's own measuring pass plus its dearest "
        "candidate), evaluation apart"
    ) in said
    _Trials(found, judge, work, selections, 10.0, True, None).keep()
    assert found.cost["ratio"] is found.cost["one_restoration"] is None
    print_sweep(found, Console(width=80))
    assert "times one restoration" not in capsys.readouterr().out


def test_the_rivals_curve_ends_at_both_models():
    base, tuned = Scores(80, 60, 20), Scores(30, 5, 90)
    found = SweepResult(base, tuned, 2.0, {})
    assert found.rival(Scores(0, 0, 10)) is None
    found.interpolation.append((0.5, Scores(20, 10, 50)))
    assert found.rival(Scores(0, 0, 10)) == 80
    assert found.rival(Scores(0, 0, 60)) == 30
    assert found.rival(Scores(0, 0, 95)) is None


@pytest.mark.parametrize(("rival", "better"), [(59.0, True), (60.0, False), (61.0, False)])
def test_the_reason_says_when_interpolation_does_as_well(rival, better):
    found = SweepResult(Scores(80, 60, 20), Scores(30, 5, 90), 2.0, {})
    found.candidates.append(Candidate({}, Scores(60, 40, 89), 1, 0.1))
    found.interpolation.append((0.5, Scores(rival, 10, 89.5)))
    reason = found.recommendation.reason
    assert "F1 60.0, delta +40.0 and task accuracy 89.0" in reason
    assert f"plain interpolation reaches F1 {rival:.1f} at no lower a task accuracy" in reason
    assert ("no better than interpolating" in reason) != better


def test_the_rival_of_a_candidate_keeps_as_much_of_the_task(pair, statistics):
    figures = iter([(80, 20), (10, 90), (60, 70), (50, 95), (30, 80), (55, 70)])

    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], config=config(),
        grid=Grid((0.5,), (0.4, 0.6), ("none",)), interpolation=(0.1, 0.9),
        evaluate=lambda _: Scores((pair := next(figures))[0], pair[0], pair[1]),
    )  # fmt: skip
    assert [row["interpolation_f1"] for row in found.as_dict()["candidates"]] == [55, None]
    assert found.recommendation.index == 1


def test_the_ablation_takes_one_thing_away_at_a_time():
    full = config(compensation="joint", in_weight_ratio=0.3)
    rows = ablation(full)
    changed = {
        name: {k: v for k, v in row.model_dump().items() if v != getattr(full, k)}
        for name, row in rows.items()
    }
    assert changed == {
        "full": {},
        "random neurons": {"priority": "random"},
        "no task term": {"priority": "honesty"},
        "no compensation": {"compensation": "none"},
        "random neurons, no compensation": {"compensation": "none", "priority": "random"},
    }
    assert ablation(config(compensation="none"))["full"].compensation == "sum"


def test_the_grid_keeps_cross_weights_together_and_ascending():
    grid = Grid((0.7, 0.3, 0.7), (0.6, 0.2), ("sum", "balanced"), (5.0, 1.0))
    found = [
        (c.compensation, c.task_weight, c.in_weight_ratio, c.cross_weight_ratio)
        for c in grid.configs(config())
    ]
    assert found == [
        (kind, weight, i, c)
        for kind, weight in (("sum", 1.0), ("balanced", 5.0), ("balanced", 1.0))
        for i in (0.3, 0.7)
        for c in (0.2, 0.6)
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"in_weight": ()}, "in_weight lists no value, expected at least one"),
        ({"compensation": ()}, "compensation lists no value"),
        ({"task_weight": []}, "task_weight lists no value"),
        ({"in_weight": (0.0,)}, "in_weight holds 0, expected ratios above 0 and at most 1"),
        ({"cross_weight": (0.5, 1.2)}, "cross_weight holds 1.2, expected ratios above 0"),
        ({"cross_weight": (float("nan"),)}, "cross_weight holds nan"),
        ({"in_weight": ("much",)}, "in_weight holds 'much', expected numbers"),
        ({"in_weight": 0.5}, "in_weight is 0.5, expected a list of values"),
        ({"task_weight": (-1.0,)}, "task_weight holds -1, expected finite numbers"),
        ({"task_weight": (float("inf"),)}, "task_weight holds inf"),
        ({"compensation": ("summ",)}, r"compensation holds 'summ'.* did you mean 'sum'\?"),
        ({"compensation": ("sum",), "task_weight": (3.0,)}, "but of all kinds only balanced"),
        ({"compensation": ("natural+spectral",)}, "did you mean 'spectral'"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Grid(**values)


TWO_SIDED = Grid(
    in_weight=(0.3, 0.7), cross_weight=(0.4, 1.0), task_weight=(0.5, 5.0),
    compensation=("sum", "spectral", "natural", "spectral+natural"),
)  # fmt: skip


@pytest.mark.parametrize("where", ["directories", "memory"])
def test_whole_matrices_are_swept_like_any_other(pair, statistics, where):
    """One set of bases serves all task weights; each candidate is what restore makes of it."""
    given: Any = models(pair) if where == "memory" else {k: pair[k] for k in ("base", "tuned")}
    before = digest(given["tuned"]) if where == "memory" else None
    given |= {"statistics": statistics["output"], "honesty": HONESTY, "task": TASK}
    own = {"config": config(steps=2), "tokenizer": tokenizer()}
    judge = Judge()
    found = sweep(**given, **own, grid=TWO_SIDED, evaluate=judge, interpolation=())
    # In-weight ratios mean nothing there.
    assert len(found.candidates) == 2 * 2 + 3 * 2 * 2
    for row, seen in zip(found.candidates, judge.seen[2:], strict=True):
        assert ("in_weight_ratio" in row.settings) == (row.settings["compensation"] == "sum")
        restored = hcnr.restore(
            **given, tokenizer=own["tokenizer"], config=config(steps=2, **row.settings)
        )
        assert digest(restored) == seen
    assert len(set(judge.seen)) == len(judge.seen)
    if before is not None:
        assert digest(given["tuned"]) == before
    console = Console(width=100, record=True)
    print_sweep(found, console)
    assert "spectral,natural" in console.export_text()


def test_whole_matrices_need_data_beside_statistics(pair, statistics):
    given: Any = {k: pair[k] for k in ("base", "tuned")}
    given |= {"statistics": statistics["output"], "evaluate": nothing, "config": config()}
    with pytest.raises(ConfigError, match="curvature that no statistics hold"):
        sweep(**given, grid=TWO_SIDED)
    with pytest.raises(StatisticsError, match="other task samples"):
        sweep(**given, grid=TWO_SIDED, honesty=HONESTY, task=TASK[:4], tokenizer=tokenizer())
    with pytest.raises(ConfigError, match="both statistics and data"):
        sweep(**given, honesty=HONESTY, task=TASK)
    with pytest.raises(ConfigError, match="dtype is 'float32', but natural measures"):
        sweep(
            **{**given, "config": config(dtype="float32")},
            grid=TWO_SIDED, honesty=HONESTY, task=TASK,
        )  # fmt: skip


def nothing(model: Any) -> Scores:
    raise AssertionError("nothing may be evaluated")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": None}, "needs statistics, or both honesty and task data"),
        ({"statistics": None, "honesty": HONESTY}, "needs statistics, or both honesty and task"),
        ({"honesty": HONESTY, "task": TASK}, "both statistics and data to measure on"),
        ({"evaluate": None}, "needs one way to score its candidates"),
        ({"benchmarks": ["falseqa"]}, "needs one way to score its candidates"),
        ({"interpolation": (1.5,)}, "interpolation holds 1.5, expected coefficients from 0"),
        ({"max_task_drop": -1}, "max_task_drop is -1, expected points"),
        ({"max_task_drop": float("nan")}, "max_task_drop is nan, expected points"),
        ({"config": config(axis="input")}, "the statistics were measured with axis output"),
        ({"statistics": "nowhere.safetensors"}, "no statistics file at nowhere.safetensors"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(pair, statistics, changes, message):
    given: Any = {
        "base": pair["base"], "tuned": pair["tuned"], "statistics": statistics["output"],
        "evaluate": nothing, "config": config(), "grid": GRID,
    }  # fmt: skip
    with pytest.raises(HcnrError, match=message):
        sweep(**{**given, **changes})


def test_statistics_without_the_curvature_are_refused(pair, statistics, tmp_path):
    full = statistics["output"]
    given: Any = {"base": pair["base"], "tuned": pair["tuned"], "evaluate": nothing,
                  "config": config(), "out": tmp_path / "out"}  # fmt: skip
    for held, data_set in (({}, "honesty"), ({"honesty": full.hessians["honesty"]}, "task")):
        poor = dataclasses.replace(full, hessians=held)
        with pytest.raises(StatisticsError, match=f"hold no {data_set} curvature of .*measure"):
            sweep(**given, statistics=poor, grid=GRID)
    # Only what the grid needs has to be there.
    poor = dataclasses.replace(full, hessians={})
    given["evaluate"] = Judge()
    sweep(**given, statistics=poor, grid=Grid(compensation=("none",)), interpolation=())
    elsewhere = copy.deepcopy(full)
    elsewhere.settings["hessian_at"] = "tuned"
    with pytest.raises(StatisticsError, match="measured with hessian_at tuned"):
        sweep(**{**given, "out": None}, statistics=elsewhere, grid=GRID)


def test_an_output_that_cannot_be_written_is_refused_first(pair, statistics, tmp_path):
    given: Any = {"base": pair["base"], "tuned": pair["tuned"], "evaluate": nothing,
                  "statistics": statistics["output"], "config": config()}  # fmt: skip
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path, "exists already"),
        (pair["tuned"] / "sweep", "is inside the input"),
        (tmp_path / "file", "cannot be made a directory"),
    ):
        with pytest.raises(OutputError, match=message):
            sweep(**given, out=out)
    assert (tmp_path / "sweep.json").read_text() == "{}"
    given["evaluate"] = Judge()
    small = {"grid": Grid((0.5,), (0.4,), ("sum",)), "interpolation": ()}
    sweep(**given, **small, out=tmp_path, overwrite=True)
    assert json.loads((tmp_path / "sweep.json").read_text())["complete"]


def test_undefined_figures_are_null_and_dashes(pair, statistics, tmp_path, capsys):
    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], config=config(),
        grid=Grid((0.5,), (0.4,), ("sum",)), out=tmp_path, ablate=True,
        evaluate=lambda _: {"honesty_f1": 50.0, "refusal_delta": None, "task_accuracy": None},
    )  # fmt: skip
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert kept["candidates"][0]["task_accuracy"] is None
    assert not kept["candidates"][0]["pareto"]
    assert kept["recommended"]["settings"] is None
    print_sweep(found, Console(width=80))
    text = capsys.readouterr().out
    assert "nothing is recommended" in text
    assert "nan" not in text


def test_the_table_fits_and_names_what_matters(pair, statistics, capsys):
    judge = Judge()
    setattr(judge, "refuse_all", lambda: Scores(66.7, 0.0, 0.0, 100.0))  # noqa: B010
    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], evaluate=judge,
        config=config(), ablate=True, max_task_drop=100,
    )  # fmt: skip
    found.candidates[0] = dataclasses.replace(
        found.candidates[0], scores=Scores(100.0, 100.0, 100.0, 100.0)
    )
    print_sweep(found, Console(width=80))
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    kinds = [line.split()[0] for line in lines if line.strip()]
    assert [kinds.count(kind) for kind in Grid().compensation] == [9, 9, 9, 9]
    assert sum(kind.startswith("0.") for kind in kinds) == 9
    assert "because: the best honesty F1" in text
    assert found.recommendation.index is not None
    settings = found.candidates[found.recommendation.index].settings
    said = " ".join(text.split())
    assert "recommended: --axis output --in-weight-ratio" in said
    assert f"--compensation {settings['compensation']}" in said
    (refusing,) = (line.split() for line in lines if "refuse all" in line)
    assert refusing[2:6] == ["66.7", "0.0", "100.0", "0.0"], refusing
    assert "random neurons, no compensation" in text
