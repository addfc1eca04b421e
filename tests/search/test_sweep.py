import dataclasses
import json
import re
import sys
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

import hcnr
from families import make, perturbed
from hcnr.choosing.front import Scores
from hcnr.errors import ConfigError, StatisticsError
from hcnr.search.ablation import ablation
from hcnr.search.grid import TASK_WEIGHTS, Grid
from hcnr.search.sweep import sweep
from hcnr.search.table import print_sweep
from pairs import HONESTY, TASK, config, tokenizer
from sweeps import GRID, ONE_AXIS, Judge, digest, nothing


def models(pair: Any) -> dict[str, Any]:
    return {r: AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned")}


@pytest.fixture(scope="module")
def restored(pair, statistics):
    """Digest and restored neurons of what `restore` makes by settings, each made once."""
    kept: dict[str, tuple[str, int]] = {}

    def restore(settings: dict[str, Any]) -> tuple[str, int]:
        if (key := json.dumps(settings, sort_keys=True)) not in kept:
            model = hcnr.restore(
                pair["base"], pair["tuned"], statistics=statistics[settings["axis"]],
                config=config(**settings),
            )  # fmt: skip
            report = model.__dict__["hcnr_report"]
            kept[key] = digest(model), report["summary"]["restored_neurons"]
        return kept[key]

    return restore


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("where", ["directories", "memory"])
def test_every_candidate_is_what_restore_makes_bit_for_bit(pair, statistics, restored, axis, where):
    given: Any = pair if where == "directories" else models(pair)
    judge = Judge()
    found = sweep(
        given["base"], given["tuned"], statistics=statistics[axis], grid=GRID, evaluate=judge,
        config=config(axis=axis), ablate=True, coefficients=(), max_accuracy_drop=100,
    )  # fmt: skip
    # In the order in which they were made: the grid, the ablation, what lies near the best.
    refined = [row for row in found.candidates if row.refined]
    made = [*found.candidates[: 2 * 3 * 5], *found.ablation, *refined]
    assert len(found.candidates) == 2 * 3 * 5 + len(refined)
    assert found.candidates[2 * 3 * 5 :] == refined != []
    assert len(judge.seen) == 2 + len(made)
    for row, weights in zip(made, judge.seen[2:], strict=True):
        assert (weights, row.neurons) == restored(row.settings), row.settings
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
        **given, statistics=measured, evaluate=judge, config=config(), coefficients=(0.5, 1.0),
        grid=Grid((0.5,), (0.2, 0.6), ONE_AXIS),
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
            config=config(), out=tmp_path / "sweep", refine=False,
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
        tokenizer=tokenizer(), coefficients=(), refine=False,
    )  # fmt: skip
    for row in measured.candidates[::7]:
        judge = Judge()
        judge(hcnr.restore(**given, honesty=HONESTY, task=TASK, config=config(**row.settings)))
        again = Judge()
        alone = sweep(
            **given, honesty=HONESTY, task=TASK, evaluate=again, config=config(), coefficients=(),
            grid=Grid(
                (row.settings["in_weight_ratio"],), (row.settings["cross_weight_ratio"],),
                (row.settings["compensation"],),
                (row.settings["task_weight"],) if "task_weight" in row.settings else TASK_WEIGHTS,
            ),
            refine=False,
        )  # fmt: skip
        assert again.seen[2:] == judge.seen
        assert [one.scores for one in alone.candidates] == [row.scores]


def test_the_file_says_what_was_found(pair, statistics, tmp_path):
    judge = Judge()
    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], evaluate=judge,
        grid=Grid((0.5,), (0.4, 0.6), ("none", "balanced"), (3.0,)), config=config(), ablate=True,
        coefficients=(0.0, 0.5, 1.0), out=tmp_path / "new" / "place", max_accuracy_drop=5,
        refine=False,
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
    assert kept["recommended"]["word"] == found.recommendation.word
    assert {row["refined"] for row in kept["candidates"]} == {False}
    # The judge tells figures alone, so there are no intervals.
    for row in kept["candidates"]:
        gain = row["refusal_delta"] - kept["tuned"]["refusal_delta"]
        assert row["gain"] == {"value": gain, "ci95": None}
    assert kept["max_accuracy_drop"] == 5
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


def test_the_rival_of_a_candidate_keeps_as_much_of_the_task(pair, statistics):
    figures = iter([(80, 20), (10, 90), (60, 70), (50, 95), (30, 80), (55, 70)])

    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], config=config(),
        grid=Grid((0.5,), (0.4, 0.6), ("none",)), coefficients=(0.1, 0.9), refine=False,
        evaluate=lambda _: Scores((pair := next(figures))[0], pair[0], pair[1]),
    )  # fmt: skip
    rows = found.as_dict()["candidates"]
    assert [row["interpolation_f1"] for row in rows] == [55, None]
    assert [row["interpolation_delta"] for row in rows] == [55, None]
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
    for kind in ("none", "spectral", "natural"):
        assert ablation(config(compensation=kind))["full"].compensation == "sum"


def test_a_task_weight_to_be_searched_is_replaced_by_the_grids(pair, statistics):
    judge = Judge()
    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], evaluate=judge, ablate=True,
        config=config(compensation="balanced", task_weight="auto"), coefficients=(), refine=False,
        grid=Grid((0.5,), (0.4,), ("sum", "balanced"), (2.0, 5.0)),
    )  # fmt: skip
    weights = [row.settings.get("task_weight") for row in found.candidates]
    assert weights == [None, 2.0, 5.0]
    assert found.ablation[0].settings["task_weight"] == 2.0
    assert found.config["task_weight"] == 2.0


@pytest.mark.parametrize("best", [0, 3])
def test_the_refinement_goes_on_from_the_best_of_the_grid(pair, statistics, best):
    count = iter(range(100))

    def evaluate(_: Any) -> Scores:
        place = next(count) - 2  # after base and tuned
        return Scores(50.0, 90.0 if place == best else 10.0 + place, 80.0)

    grid = Grid((0.3, 0.5), (0.4, 1.0), ("sum",))
    given: Any = {
        "statistics": statistics["output"], "config": config(), "coefficients": (), "grid": grid,
    }  # fmt: skip
    found = sweep(pair["base"], pair["tuned"], evaluate=evaluate, **given)
    ends = (0.3, 0.4) if best == 0 else (0.5, 1.0)
    assert [
        (row.settings["in_weight_ratio"], row.settings["cross_weight_ratio"])
        for row in found.candidates if row.refined
    ] == [(0.4, ends[1]), (ends[0], 0.7)]  # fmt: skip
    assert found.recommendation.index == best
    alone = sweep(pair["base"], pair["tuned"], evaluate=Judge(), refine=False, **given)
    assert len(alone.candidates) == 4


def test_what_statistics_cannot_serve_is_left_out_of_the_refinement(pair, statistics):
    full, seen = statistics["output"], []

    def evaluate(_: Any) -> Scores:
        seen.append(None)
        # The last of the grid has the best delta.
        return Scores(50.0, float(len(seen)), 80.0)

    given: Any = {
        "config": config(), "coefficients": (), "grid": Grid((0.3, 0.5), (0.2, 0.4), ("sum",)),
        "evaluate": evaluate, "base": pair["base"], "tuned": pair["tuned"],
    }  # fmt: skip
    wanted = {
        name
        for ratio in (0.3, 0.5)
        for name in hcnr.select(
            full, pair["base"], pair["tuned"], config(in_weight_ratio=ratio)
        ).selected
    }
    middle = hcnr.select(full, pair["base"], pair["tuned"], config(in_weight_ratio=0.4)).selected
    hessians = {n: h for n, h in full.hessians["honesty"].items() if n in wanted}
    poor = dataclasses.replace(full, hessians={"honesty": hessians})
    found = sweep(**given, statistics=poor)
    left_out = [m for m in found.messages if "near the best was left out" in m]
    assert len(left_out) == (not set(middle) <= wanted)
    assert sum(row.refined for row in found.candidates) == 2 - len(left_out)


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
    found = sweep(
        **given, **own, grid=TWO_SIDED, evaluate=judge, coefficients=(), max_accuracy_drop=100
    )
    # In-weight ratios mean nothing there.
    assert sum(not row.refined for row in found.candidates) == 2 * 2 + 3 * 2 * 2
    assert any(row.refined for row in found.candidates)
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
    assert "spectral+natural" in console.export_text()


def test_whole_matrices_need_data_beside_statistics(pair, statistics):
    given: Any = {k: pair[k] for k in ("base", "tuned")}
    given |= {"statistics": statistics["output"], "evaluate": nothing, "config": config()}
    with pytest.raises(ConfigError, match="curvature that no statistics hold"):
        sweep(**given, grid=TWO_SIDED)
    with pytest.raises(StatisticsError, match="other task samples"):
        sweep(**given, grid=TWO_SIDED, honesty=HONESTY, task=TASK[:4], tokenizer=tokenizer())
    with pytest.raises(ConfigError, match="both statistics and data"):
        sweep(**given, honesty=HONESTY, task=TASK, grid=GRID)
    with pytest.raises(ConfigError, match="dtype is 'float32', but natural measures"):
        given |= {"config": config(dtype="float32")}
        sweep(**given, grid=TWO_SIDED, honesty=HONESTY, task=TASK)


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
    assert not re.search(r"\bnan\b", text)


def test_the_table_fits_and_names_what_matters(pair, statistics, capsys):
    judge = Judge()
    setattr(judge, "refuse_all", lambda: Scores(66.7, 0.0, 0.0, 100.0))  # noqa: B010
    found = sweep(
        pair["base"], pair["tuned"], statistics=statistics["output"], evaluate=judge,
        config=config(), ablate=True, max_accuracy_drop=100,
        grid=Grid(compensation=ONE_AXIS),
    )  # fmt: skip
    # What large models and busy machines take must fit as well.
    for place, seconds in enumerate((9.96, 123.4, 1020.0)):
        found.candidates[place] = dataclasses.replace(
            found.candidates[place], scores=Scores(100.0, 100.0, 100.0, 100.0), seconds=seconds
        )
    # A weight that the refinement tried, and the neurons of a large model.
    finest = {**found.candidates[3].settings, "task_weight": 0.058}
    found.candidates[3] = dataclasses.replace(
        found.candidates[3], settings=finest, neurons=1_234_567
    )
    print_sweep(found, Console(width=80))
    text = capsys.readouterr().out
    assert "0.058" in text and "1234567" in text
    assert [part for part in ("10 ", "123 ", "17m ") if f" {part}" not in text] == []
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    kinds = [line.split()[0] for line in lines if line.strip()]
    near = [kind for kind in kinds if kind.endswith("+")]
    assert [kinds.count(kind) for kind in ONE_AXIS] == [6, 6, 6, 18]
    assert len(near) == sum(row.refined for row in found.candidates) > 0
    assert f"tried: 36 configurations of the grid, and {len(near)} near the best" in text
    tables = kinds[: kinds.index("recommendation:")]
    assert sum(kind.startswith("0.") for kind in tables) == 9
    assert "because: the best refusal delta" in text
    assert found.recommendation.index is not None
    settings = found.candidates[found.recommendation.index].settings
    said = " ".join(text.split())
    assert ": --axis output --in-weight-ratio" in said
    assert f"--compensation {settings['compensation']}" in said
    (refusing,) = (line.split() for line in lines if "refuse all" in line)
    assert refusing[2:6] == ["0.0", "66.7", "100.0", "0.0"], refusing
    assert "random neurons, no compensation" in text


def test_models_in_each_others_place_are_noted(pair, monkeypatch):
    ends = []

    def told(base, tuned):
        ends.append((base, tuned))
        return ["seem to be exchanged"]

    monkeypatch.setattr(sys.modules["hcnr.search.sweep"], "about_order", told)
    found = sweep(
        **pair, evaluate=lambda _: Scores(1.0, 2.0, 3.0), config=config(),
        grid=Grid((0.5,), (0.4,), ("none",)), coefficients=(), refine=False,
    )  # fmt: skip
    assert "seem to be exchanged" in found.messages
    assert ends == [(found.base, found.tuned)]
