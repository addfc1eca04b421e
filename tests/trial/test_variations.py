import json
from pathlib import Path

import pytest
from rich.console import Console

from experiments.trial import variations
from experiments.trial.candidate_specs import FineTuned, Masked, Restored, Samples, candidate_key
from experiments.trial.methods import METHODS, Method
from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import MethodResult, SeedResult
from experiments.trial.selection import Scored, Selected
from experiments.trial.variation_table import COLUMNS, VariationTable
from experiments.trial.variations import LEVEL, Arm, Question, list_questions, run_variations
from testbeds import environment_of


def arms(letter: str, available: int = 256) -> list[Arm]:
    (found,) = [one for one in list_questions(available) if one.letter == letter]
    return list(found.arms)


def test_the_five_questions_of_which_each_kind_has_a_reference():
    for available in (96, 128, 256):
        found = list_questions(available)
        assert [one.letter for one in found] == ["a", "b", "c", "d", "e"]
        names = [arm.method.name for one in found for arm in one.arms]
        assert len(set(names)) == len(names)
        for one in found:
            kinds = {arm.kind for arm in one.arms}
            having = {arm.kind for arm in one.arms if arm.variant == one.reference}
            assert kinds == having, one.letter
            assert all(3 <= len(arm.method.grid) <= 5 for arm in one.arms)
            for kind in kinds:
                sizes = {len(arm.method.grid) for arm in one.arms if arm.kind == kind}
                assert len(sizes) == 1, "one side of a comparison has more tries"


def test_a_varies_the_neurons_and_nothing_else():
    found = {(arm.kind, arm.variant): arm.method.grid for arm in arms("a")}
    for mine, theirs in zip(
        found["balanced", "priority"], found["balanced", "random"], strict=True
    ):
        assert isinstance(mine, Restored) and mine.priority == "kl"
        changed = {**mine.as_dict(), "priority": "random"}
        assert theirs.as_dict() == changed
    assert {type(one) for one in found["spectral", "random"]} == {Masked}
    assert {type(one) for one in found["spectral", "whole matrices"]} == {Restored}


def test_c_takes_256_samples_only_where_there_are_as_many():
    assert {arm.variant for arm in arms("c")} == {"32", "64", "128", "256"}
    assert {arm.variant for arm in arms("c", 128)} == {"32", "64", "128"}
    assert {arm.variant for arm in arms("c", 96)} == {"32", "64"}
    for arm in arms("c"):
        assert arm.method.samples == Samples(int(arm.variant))
    assert {arm.kind for arm in arms("c")} == {
        *("sum", "balanced", "spectral", "natural", "fine-tuning")
    }


@pytest.mark.parametrize(("available", "count"), [(256, 128), (128, 64), (96, 48), (600, 128)])
def test_d_has_as_many_samples_on_both_sides(available: int, count: int):
    found = {arm.variant: arm.method.samples for arm in arms("d", available)}
    assert found == {"mixed": Samples(count), "refusals": Samples(count, "refusals")}


def test_b_and_e_vary_one_setting():
    for arm in arms("b"):
        where = arm.variant.removeprefix("at ")
        assert all(isinstance(one, Restored) and one.fisher_at == where for one in arm.method.grid)
    for arm in arms("e"):
        share = float(arm.variant.removeprefix("R_CW "))
        for one in arm.method.grid:
            assert isinstance(one, Restored) and one.cross_weight_ratio == share
            assert one.compensation == arm.kind
    assert len({arm.kind for arm in arms("e")}) == 7


def test_the_trial_has_evaluated_some_of_it_already():
    scored = {candidate_key(one, method.samples) for method in METHODS for one in method.grid}
    asked = {
        candidate_key(one, arm.method.samples)
        for question in list_questions(256)
        for arm in question.arms
        for one in arm.method.grid
    }
    assert len(scored & asked) >= 20


def test_variations_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = (
        Question(
            "x",
            "How many samples?",
            "8",
            tuple(
                Arm("tuning", str(size), Method(f"x {size}", (FineTuned("honesty", 1e-4, 1),),
                                             Samples(size)))
                for size in (4, 8)
            ),
        ),
        Question(
            "y",
            "Which neurons?",
            "priority",
            (
                Arm("spectral", "priority", Method("y p", (Masked(30.0, "kl", 0.1),))),
                Arm("spectral", "all", Method("y w", (Restored("spectral", task_weight=300.0),))),
                Arm("joint", "priority", Method("y j", (Restored("joint", in_weight_ratio=1.0),))),
            ),
        ),
    )  # fmt: skip
    told = []
    monkeypatch.setattr(variations, "list_questions", lambda count: told.append(count) or few)
    held, testbeds = environment_of(tmp_path / "worlds")
    table = run_variations(held, tmp_path / "out", range(2), console=Console(quiet=True))
    assert told == [12]
    rows = {row.name: row for question in few for row in table.rows(question)}
    assert list(rows) == ["tuning, 4", "tuning, 8", "spectral, priority", "spectral, all",
                          "joint, priority"]  # fmt: skip
    difference = rows["spectral, all"].differences["reference"].of("f1")
    theirs = rows["spectral, priority"].figures["f1"].values
    assert difference.values == tuple(
        a - b for a, b in zip(rows["spectral, all"].figures["f1"].values, theirs, strict=True)
    )
    assert rows["spectral, priority"].differences == {}
    # Restoring everything keeps nothing, so there is no selection at the level.
    assert rows["joint, priority"].seeds == 0
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table.to_rich())
    text = " ".join(capture.get().split())
    assert "…" not in text
    for part in ("(x) How many samples?", "spectral, all", "0/2", f"{LEVEL:g} %"):
        assert part in text
    written = json.loads((tmp_path / "out" / "variations.json").read_text())
    assert [one["letter"] for one in written["questions"]] == ["x", "y"]
    assert (tmp_path / "out" / "variations.md").read_text() == table.to_markdown()
    scored = [len(testbed.asked) for testbed in testbeds.values()]
    run_variations(held, tmp_path / "out", range(2), console=Console(quiet=True))
    assert [len(testbed.asked) for testbed in testbeds.values()] == scored


def metrics(f1: float, delta: float, retention: float) -> Metrics:
    return Metrics(f1, delta, 3.0, 80.0, retention, {})


def varied(**arms: Metrics) -> VariationTable:
    """Three seeds in which every arm of a kind did the same; the reference is the first."""
    methods = {
        name: Method(
            f"x spectral, {name}", tuple(Restored("spectral", task_weight=w) for w in (1, 3))
        )
        for name in arms
    }
    question = Question(
        *("x", "Which?", next(iter(arms))),
        tuple(Arm("spectral", name, method) for name, method in methods.items()),
    )
    shown = {}
    for name, found in arms.items():
        tried = [
            Scored({"made": "restored", "task_weight": float(w)}, metrics(1.0, 2.0, 99.0), 1.0)
            for w in (1, 3, 10)
        ]
        shown[methods[name].name] = MethodResult(tried, {LEVEL: Selected(tried[2], found)})
    results = [SeedResult("key", "synthetic", seed, {}, shown, {}) for seed in (2, 3, 4)]
    return VariationTable("synthetic", (question,), results, LEVEL)


def test_findings_are_of_both_figures_each_by_itself():
    table = varied(ref=metrics(50.0, 30.0, 95.0), new=metrics(60.0, 25.0, 93.0))
    assert table.findings(table.questions[0]) == [
        "spectral, new is worse than ref in delta (-5.0 ±0.0).",
        "spectral, new is better than ref in F1 (+10.0 ±0.0).",
    ]
    (_, row) = table.rows(table.questions[0])
    cells = dict(zip(COLUMNS, row.cells(("reference",), " "), strict=True))
    assert (cells["delta vs ref.*"], cells["F1 vs ref.*"]) == ("-5.0 ±0.0", "+10.0 ±0.0")
    same = varied(ref=metrics(50.0, 30.0, 95.0), new=metrics(50.0, 31.0, 93.0))
    assert same.findings(same.questions[0])[1:] == ["F1: 1 of 1 differences from ref hold 0."]


def test_arms_that_keep_more_than_3_points_apart_are_not_compared():
    table = varied(
        ref=metrics(50.0, 30.0, 91.3),
        much=metrics(40.0, 20.0, 98.3),
        near=metrics(40.0, 20.0, 94.0),
    )
    assert table.findings(table.questions[0]) == [
        "spectral, near is worse than ref in delta (-10.0 ±0.0).",
        "spectral, near is worse than ref in F1 (-10.0 ±0.0).",
        "spectral, much and ref: not compared (kept 98.3 against 91.3).",
    ]
    assert table.comparisons == 2 == table.as_dict()["comparisons"]
    assert "makes 2 comparisons in words and corrects none" in " ".join(table.notes)


def test_edges_tries_and_seeds_of_variations_are_told():
    table = varied(ref=metrics(50.0, 30.0, 95.0))
    text = table.to_markdown()
    assert "| spectral, ref | mu 10 (at the edge: mu) |" in text
    assert "settings with only two values are not marked" in text
    assert "tried 3 settings" in text
    assert "Synthetic seeds 0 to 2 were used" in text
