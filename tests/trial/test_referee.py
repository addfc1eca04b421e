import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest

from arenas import WeighedArena, write_arena
from experiments.trial.arena import Marks
from experiments.trial.choosing import Entry
from experiments.trial.making import Interpolated, Prompted, Restored, Samples
from experiments.trial.referee import Referee
from experiments.trial.seed_result import Showing
from experiments.trial.ways import FINE_TUNING, INTERPOLATION, Way
from hcnr.progress import Stages


def line(name: str, *shares: float, samples: int = 128) -> Way:
    """A way whose candidates have gone those shares of the way towards base, and keep the rest."""
    return Way(name, tuple(Interpolated(share) for share in shares), Samples(samples))


LEVELS = (94.0, 75.0)
RIVALS = (
    line(INTERPOLATION, 0.03, 0.08, 0.2, 0.9),
    line(FINE_TUNING[0], 0.01, 0.15),
    line(FINE_TUNING[1], 0.1),
)


class Memory:
    """A journal that is not kept."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], tuple[Marks, float]] = {}

    def get(self, candidate: str, part: str) -> tuple[Marks, float] | None:
        return self.found.get((candidate, part))

    def add(self, candidate: str, part: str, marks: Marks, seconds: float) -> None:
        self.found[candidate, part] = marks, seconds


@pytest.fixture
def arena(tmp_path: Path) -> WeighedArena:
    return write_arena(tmp_path)


def hold(arena: WeighedArena, *ways: Way, journal: Memory | None = None) -> dict[str, Showing]:
    referee = Referee(arena, cast(Any, journal or Memory()), Stages().watcher)
    return referee.hold(ways, LEVELS, referee.ends()["tuned"]["validation"])


def entry(found: dict[str, Showing], name: str, level: float) -> Entry:
    one = found[name].entries[level]
    assert one is not None
    return one


def share(one: Entry) -> float | str:
    return one.chosen.settings.get("coefficient", one.chosen.settings["made"])


def against(one: Entry) -> dict[str, float | str]:
    return {name: share(rival) for name, rival in one.rivals.items()}


def test_rivals_keep_as_much_as_the_row_not_as_the_level(arena: WeighedArena):
    found = hold(arena, *RIVALS, line("sum", 0.05, 0.12, 0.3))
    assert share(entry(found, "sum", 94.0)) == 0.05
    assert against(entry(found, "sum", 94.0)) == {"interpolation": 0.03, "fine-tuning": 0.01}
    # Interpolation itself sends in 0.2 at 75 %; what keeps the row's 88 % is 0.08.
    assert share(entry(found, INTERPOLATION, 75.0)) == 0.2
    assert share(entry(found, "sum", 75.0)) == 0.12
    assert against(entry(found, "sum", 75.0)) == {"interpolation": 0.08, "fine-tuning": 0.1}


def test_rivals_are_judged_on_the_evaluated_part(arena: WeighedArena):
    """Which ranks models the other way round."""
    found = hold(arena, *RIVALS, line("sum", 0.05, 0.12))
    own = entry(found, "sum", 75.0)
    for one in (own, *own.rivals.values()):
        gone = float(share(one))
        assert one.chosen.validation.f1 == pytest.approx(40.0 + 50.0 * gone)
        assert one.evaluated.f1 == pytest.approx(90.0 - 50.0 * gone)
        assert one.rivals == {} or one is own


def test_the_tuned_model_is_the_rival_where_none_keeps_as_much(arena: WeighedArena):
    found = hold(arena, *RIVALS, line("sum", 0.005))
    own = entry(found, "sum", 94.0)
    assert against(own) == {"interpolation": "tuned", "fine-tuning": "tuned"}
    tuned = own.rivals["interpolation"]
    assert tuned.chosen.validation.f1 == pytest.approx(40.0)
    assert tuned.evaluated.f1 == pytest.approx(90.0)


def test_a_rival_is_compared_with_the_other_one(arena: WeighedArena):
    found = hold(arena, *RIVALS)
    assert against(entry(found, INTERPOLATION, 75.0)) == {"fine-tuning": 0.15}
    assert against(entry(found, FINE_TUNING[0], 75.0)) == {"interpolation": 0.08}
    assert against(entry(found, FINE_TUNING[1], 75.0)) == {"interpolation": 0.08}


def test_only_rivals_that_take_part(arena: WeighedArena):
    sum_ = line("sum", 0.12)
    assert against(entry(hold(arena, sum_), "sum", 75.0)) == {}
    found = hold(arena, RIVALS[1], sum_)
    assert against(entry(found, "sum", 75.0)) == {"fine-tuning": 0.01}


def test_ways_on_other_samples_are_compared_too(arena: WeighedArena):
    few = Way("sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2),), Samples(4))
    found = hold(arena, few, *RIVALS)
    assert list(found) == ["sum", *(way.name for way in RIVALS)]
    own = entry(found, "sum", 75.0)
    kept = own.chosen.validation.retention
    assert own.rivals.keys() == {"interpolation", "fine-tuning"}
    assert all(one.chosen.validation.retention >= kept for one in own.rivals.values())


def test_nobody_but_the_chosen_and_their_rivals_is_judged_twice(arena: WeighedArena):
    """And no evaluated question is asked before all choices are made."""
    journal = Memory()
    ways = (*RIVALS, line("sum", 0.05, 0.12, 0.3))
    found = hold(arena, *ways, journal=journal)
    asked = arena.asked[4:]  # Both parts of both ends come first.
    assert asked == ["validation"] * 10 + ["evaluated"] * (len(asked) - 10)
    entries = [one for way in found.values() for one in way.entries.values() if one is not None]
    everyone = [rival for one in entries for rival in (one, *one.rivals.values())]
    seen = {(one.chosen.settings["made"], share(one)) for one in everyone}
    assert asked.count("evaluated") == len(seen - {("tuned", "tuned")})
    assert all(not math.isnan(one.evaluated.f1) for one in everyone)
    arena.asked.clear()
    assert hold(arena, *ways, journal=journal) == found
    assert arena.asked == []


def test_a_way_without_a_qualifying_candidate_sends_in_nothing(arena: WeighedArena):
    found = hold(arena, *RIVALS, line("sum", 0.5))
    assert found["sum"].entries == {94.0: None, 75.0: None}
    assert len(found["sum"].candidates) == 1


def test_a_model_is_judged_under_its_instruction(
    arena: WeighedArena, monkeypatch: pytest.MonkeyPatch
):
    judged = []
    call = type(arena.judge("validation")).__call__

    def watched(self, model: Any, instruction: str = "", **options: float) -> Marks:
        judged.append(instruction)
        return call(self, model, instruction, **options)

    monkeypatch.setattr(type(arena.judge("validation")), "__call__", watched)
    hold(arena, Way("prompt", (Prompted("Say so."), Interpolated(0.1))))
    # Base and tuned, the candidates, and the one that was chosen.
    assert judged.count("Say so.") == 1 and judged.count("") >= 5


def test_a_candidate_that_keeps_too_little_is_not_asked(arena: WeighedArena):
    journal = Memory()
    whole = hold(arena, line(INTERPOLATION, 0.05, 0.2, 0.6))
    found = hold(
        dataclasses.replace(arena, least_retention=75.0),
        line(INTERPOLATION, 0.05, 0.2, 0.6),
        journal=journal,
    )
    for level in LEVELS:
        sent, want = (entry(one, INTERPOLATION, level) for one in (found, whole))
        assert (sent.chosen.settings, sent.evaluated) == (want.chosen.settings, want.evaluated)
    marks = [one.validation for one in found[INTERPOLATION].candidates]
    assert [math.isnan(one.refusal_delta) for one in marks] == [False, False, True]
    assert marks[2].retention == pytest.approx(40.0) and marks[2].as_dict()["f1"] is None
    assert [one["front"] for one in found[INTERPOLATION].as_dict()["candidates"]][2] is False
    # Base keeps nothing and is asked all the same.
    assert not math.isnan(journal.found["base", "validation"][0].refusal_delta)
