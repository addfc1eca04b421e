import math

import pytest

from experiments.trial.arena import Marks
from experiments.trial.choosing import (
    RIVALS,
    Entry,
    Judged,
    choose,
    choose_rival,
    on_front,
    read_marks,
)
from experiments.trial.ways import WAYS


def marks(delta: float, retention: float, f1: float = 50.0) -> Marks:
    return Marks(f1, delta, 2.0, 80.0, retention, {"names": {"f1": f1}})


def judged(name: str, delta: float, retention: float, f1: float = 50.0) -> Judged:
    return Judged({"made": name}, marks(delta, retention, f1), 1.5)


TUNED = marks(20.0, 100.0, 40.0)
CANDIDATES = [
    judged("careful", 30.0, 99.0, f1=60.0),
    judged("good", 40.0, 95.0),
    judged("bold", 50.0, 89.9),
    judged("reckless", 60.0, 20.0),
    judged("mute", 20.0, 97.0, f1=99.0),
]


@pytest.mark.parametrize(
    ("level", "name"), [(98.0, "careful"), (95.0, "good"), (90.0, "good"), (75.0, "bold")]
)
def test_the_best_delta_among_those_that_keep_the_level(level: float, name: str):
    """Neither the best F1, which is the careful one's, nor the best delta of all."""
    found = choose(CANDIDATES, TUNED, level)
    assert found is not None and found.settings["made"] == name


def test_refusing_half_of_what_is_known_is_no_repair():
    """The figures of a real case: the refusing one has the better F1."""
    refusing, telling = judged("refusing", 32.0, 99.0, f1=71.0), judged("t", 52.0, 99.0, f1=69.0)
    assert choose([refusing, telling], TUNED, 95.0) is telling


def test_refusing_more_of_everything_is_not_repairing():
    """The mute candidate has the best F1 of all and the tuned model's refusal delta."""
    assert choose(CANDIDATES[-1:], TUNED, 75.0) is None
    wiser = judged("wiser", 20.1, 97.0, f1=41.0)
    assert choose([CANDIDATES[-1], wiser], TUNED, 75.0) is wiser


def test_rounding_does_not_decide():
    near = judged("near", 40.0, 95.0 - 1e-12)
    assert choose([near], TUNED, 95.0) is near
    assert choose([judged("short", 40.0, 95.0 - 1e-6)], TUNED, 95.0) is None
    assert choose([judged("same", 20.0 + 1e-12, 95.0)], TUNED, 95.0) is None
    higher = judged("higher", 20.0 + 1e-6, 95.0)
    assert choose([higher], TUNED, 95.0) is higher
    # A tie but for rounding is a tie: the better F1 goes first.
    first, second = judged("a", 40.0 + 1e-12, 95.0, f1=50.0), judged("b", 40.0, 95.0, f1=51.0)
    assert choose([first, second], TUNED, 95.0) is second
    third = judged("c", 40.0, 96.0, f1=51.0 - 1e-12)
    assert choose([second, third], TUNED, 95.0) is third


def test_no_candidate_no_entry():
    assert choose([], TUNED, 75.0) is None
    assert choose(CANDIDATES, TUNED, 99.5) is None


def test_an_undefined_retention_keeps_nothing():
    assert choose([judged("odd", 90.0, math.nan)], TUNED, 75.0) is None


def test_ties_go_to_the_better_f1_then_retention_then_to_the_earlier():
    kept = judged("kept", 40.0, 98.0, f1=59.0)
    first, second = judged("a", 40.0, 96.0, f1=60.0), judged("b", 40.0, 97.0, f1=60.0)
    twin = judged("c", 40.0, 97.0, f1=60.0)
    assert choose([kept, first, second, twin], TUNED, 95.0) is second


@pytest.mark.parametrize(
    ("retention", "name"), [(89.9, "bold"), (90.0, "good"), (95.5, "careful"), (99.5, "tuned")]
)
def test_a_rival_keeps_at_least_as_much_as_the_row(retention: float, name: str):
    """Its own candidate by the same rule; the tuned model where none qualifies."""
    found = choose_rival(marks(25.0, retention), CANDIDATES, Judged.tuned(TUNED))
    assert found is not None and found.settings["made"] == name


def test_a_rival_that_cannot_keep_as_much_is_the_tuned_model_or_nobody():
    tuned = Judged.tuned(TUNED)
    assert choose_rival(marks(25.0, 100.0 + 1e-12), CANDIDATES, tuned) is tuned
    assert choose_rival(marks(25.0, 100.1), CANDIDATES, tuned) is None
    better = judged("better", 25.0, 100.2)
    assert choose_rival(marks(25.0, 100.1), [better], tuned) is better
    assert tuned.validation is TUNED and tuned.seconds == 0.0


def test_the_rivals_are_ways_of_the_trial():
    names = {way.name for way in WAYS}
    assert names >= {name for own in RIVALS.values() for name in own}


def test_the_front_is_of_delta_and_retention():
    beaten = judged("beaten", 39.0, 94.0, f1=99.0)
    assert on_front([*CANDIDATES[:4], beaten]) == [True, True, True, True, False]


def test_marks_and_entries_come_back_from_json():
    rivals = {"interpolation": Entry(CANDIDATES[0], marks(28.0, 97.0))}
    entry = Entry(CANDIDATES[1], marks(38.0, math.nan), rivals)
    found = Entry.from_dict(entry.as_dict())
    assert found.chosen == entry.chosen
    assert math.isnan(found.evaluated.retention)
    assert found.rivals == rivals
    assert read_marks(TUNED.as_dict()) == TUNED


def test_an_entry_without_rivals_in_its_file_is_of_another_trial():
    """So that results from before rivals were chosen for each row are not read as if they had."""
    found = Entry(CANDIDATES[1], marks(38.0, 90.0)).as_dict()
    del found["rivals"]
    with pytest.raises(KeyError, match="rivals"):
        Entry.from_dict(found)
