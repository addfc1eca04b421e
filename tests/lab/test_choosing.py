import math

import pytest

from hcnr.lab.arena import Marks
from hcnr.lab.choosing import Entry, Judged, choose, on_front, read_marks


def marks(f1: float, retention: float, delta: float = 50.0) -> Marks:
    return Marks(f1, delta, 2.0, 80.0, retention, {"names": {"f1": f1}})


def judged(name: str, f1: float, retention: float, delta: float = 50.0) -> Judged:
    return Judged({"made": name}, marks(f1, retention, delta), 1.5)


TUNED = marks(40.0, 100.0, 20.0)
CANDIDATES = [
    judged("careful", 50.0, 99.0),
    judged("good", 60.0, 95.0),
    judged("bold", 70.0, 89.9),
    judged("reckless", 80.0, 20.0),
    judged("mute", 99.0, 97.0, delta=20.0),
]


@pytest.mark.parametrize(
    ("level", "name"), [(98.0, "careful"), (95.0, "good"), (90.0, "good"), (75.0, "bold")]
)
def test_the_best_f1_among_those_that_keep_the_level(level: float, name: str):
    found = choose(CANDIDATES, TUNED, level)
    assert found is not None and found.settings["made"] == name


def test_refusing_more_of_everything_is_not_repairing():
    """The mute candidate has the best F1 of all and the tuned model's refusal delta."""
    assert choose(CANDIDATES[-1:], TUNED, 75.0) is None
    wiser = judged("wiser", 41.0, 97.0, delta=20.1)
    assert choose([CANDIDATES[-1], wiser], TUNED, 75.0) is wiser


def test_no_candidate_no_entry():
    assert choose([], TUNED, 75.0) is None
    assert choose(CANDIDATES, TUNED, 99.5) is None


def test_an_undefined_retention_keeps_nothing():
    assert choose([judged("odd", 90.0, math.nan)], TUNED, 75.0) is None


def test_ties_go_to_the_better_retention_then_to_the_earlier():
    first, second = judged("a", 60.0, 96.0), judged("b", 60.0, 97.0)
    twin = judged("c", 60.0, 97.0)
    assert choose([first, second, twin], TUNED, 95.0) is second


def test_the_front_is_of_f1_and_retention():
    beaten = judged("beaten", 59.0, 94.0)
    assert on_front([*CANDIDATES[:4], beaten]) == [True, True, True, True, False]


def test_marks_and_entries_come_back_from_json():
    entry = Entry(CANDIDATES[1], marks(58.0, math.nan))
    found = Entry.from_dict(entry.as_dict())
    assert found.chosen == entry.chosen
    assert math.isnan(found.evaluated.retention)
    assert read_marks(TUNED.as_dict()) == TUNED
