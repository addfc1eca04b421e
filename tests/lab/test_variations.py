import json
from pathlib import Path

import pytest
from rich.console import Console

from arenas import course_of
from hcnr.lab import variations
from hcnr.lab.making import FineTuned, Masked, Restored, Samples, key_of
from hcnr.lab.variations import LEVEL, Arm, Question, list_questions, run_variations
from hcnr.lab.ways import WAYS, Way


def arms(letter: str, available: int = 256) -> list[Arm]:
    (found,) = [one for one in list_questions(available) if one.letter == letter]
    return list(found.arms)


def test_the_five_questions_of_which_each_kind_has_a_reference():
    for available in (96, 128, 256):
        found = list_questions(available)
        assert [one.letter for one in found] == ["a", "b", "c", "d", "e"]
        names = [arm.way.name for one in found for arm in one.arms]
        assert len(set(names)) == len(names)
        for one in found:
            kinds = {arm.kind for arm in one.arms}
            having = {arm.kind for arm in one.arms if arm.variant == one.reference}
            assert kinds == having, one.letter
            assert all(3 <= len(arm.way.grid) <= 5 for arm in one.arms)
            for kind in kinds:
                sizes = {len(arm.way.grid) for arm in one.arms if arm.kind == kind}
                assert len(sizes) == 1, "one side of a comparison has more tries"


def test_a_varies_the_neurons_and_nothing_else():
    found = {(arm.kind, arm.variant): arm.way.grid for arm in arms("a")}
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
        assert arm.way.samples == Samples(int(arm.variant))
    assert {arm.kind for arm in arms("c")} == {
        *("sum", "balanced", "spectral", "natural", "fine-tuning")
    }


@pytest.mark.parametrize(("available", "count"), [(256, 128), (128, 64), (96, 48), (600, 128)])
def test_d_has_as_many_samples_on_both_sides(available: int, count: int):
    found = {arm.variant: arm.way.samples for arm in arms("d", available)}
    assert found == {"mixed": Samples(count), "refusals": Samples(count, "refusals")}


def test_b_and_e_vary_one_setting():
    for arm in arms("b"):
        where = arm.variant.removeprefix("at ")
        assert all(isinstance(one, Restored) and one.fisher_at == where for one in arm.way.grid)
    for arm in arms("e"):
        share = float(arm.variant.removeprefix("R_CW "))
        for one in arm.way.grid:
            assert isinstance(one, Restored) and one.cross_weight_ratio == share
            assert one.compensation == arm.kind
    assert len({arm.kind for arm in arms("e")}) == 7


def test_the_trial_has_judged_some_of_it_already():
    judged = {key_of(one, way.samples) for way in WAYS for one in way.grid}
    asked = {
        key_of(one, arm.way.samples)
        for question in list_questions(256)
        for arm in question.arms
        for one in arm.way.grid
    }
    assert len(judged & asked) >= 20


def test_variations_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = (
        Question(
            "x",
            "How many samples?",
            "8",
            tuple(
                Arm("tuning", str(size), Way(f"x {size}", (FineTuned("honesty", 1e-4, 1),),
                                             Samples(size)))
                for size in (4, 8)
            ),
        ),
        Question(
            "y",
            "Which neurons?",
            "priority",
            (
                Arm("spectral", "priority", Way("y p", (Masked(30.0, "kl", 0.1),))),
                Arm("spectral", "all", Way("y w", (Restored("spectral", task_weight=300.0),))),
                Arm("joint", "priority", Way("y j", (Restored("joint", in_weight_ratio=1.0),))),
            ),
        ),
    )  # fmt: skip
    told = []
    monkeypatch.setattr(variations, "list_questions", lambda count: told.append(count) or few)
    held, arenas = course_of(tmp_path / "worlds")
    table = run_variations(held, tmp_path / "out", range(2), console=Console(quiet=True))
    assert told == [12]
    rows = {row.name: row for question in few for row in table.rows(question)}
    assert list(rows) == ["tuning, 4", "tuning, 8", "spectral, priority", "spectral, all",
                          "joint, priority"]  # fmt: skip
    lead = rows["spectral, all"].leads["reference"]
    theirs = rows["spectral, priority"].figures["f1"].values
    assert lead.values == tuple(
        a - b for a, b in zip(rows["spectral, all"].figures["f1"].values, theirs, strict=True)
    )
    assert rows["spectral, priority"].leads == {}
    # Restoring everything keeps nothing, so there is no entry at the level.
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
    judged = [len(arena.asked) for arena in arenas.values()]
    run_variations(held, tmp_path / "out", range(2), console=Console(quiet=True))
    assert [len(arena.asked) for arena in arenas.values()] == judged
