import math

import pytest

from experiments.trial.methods import METHODS
from experiments.trial.metrics import Metrics, read_metrics
from experiments.trial.selection import (
    BASELINES,
    Scored,
    Selected,
    on_front,
    select,
    select_baseline,
)


def metrics(delta: float, retention: float, f1: float = 50.0) -> Metrics:
    return Metrics(f1, delta, 2.0, 80.0, retention, {"names": {"f1": f1}})


def scored(name: str, delta: float, retention: float, f1: float = 50.0) -> Scored:
    return Scored({"made": name}, metrics(delta, retention, f1), 1.5)


TUNED = metrics(20.0, 100.0, 40.0)
CANDIDATES = [
    scored("careful", 30.0, 99.0, f1=60.0),
    scored("good", 40.0, 95.0),
    scored("bold", 50.0, 89.9),
    scored("reckless", 60.0, 20.0),
    scored("mute", 20.0, 97.0, f1=99.0),
]


@pytest.mark.parametrize(
    ("level", "name"), [(98.0, "careful"), (95.0, "good"), (90.0, "good"), (75.0, "bold")]
)
def test_the_best_delta_among_those_that_keep_the_level(level: float, name: str):
    """Neither the best F1, which is the careful one's, nor the best delta of all."""
    found = select(CANDIDATES, TUNED, level)
    assert found is not None and found.settings["made"] == name


def test_refusing_half_of_what_is_known_is_no_repair():
    """The figures of a real case: the refusing one has the better F1."""
    refusing, telling = scored("refusing", 32.0, 99.0, f1=71.0), scored("t", 52.0, 99.0, f1=69.0)
    assert select([refusing, telling], TUNED, 95.0) is telling


def test_refusing_more_of_everything_is_not_repairing():
    """The mute candidate has the best F1 of all and the tuned model's refusal delta."""
    assert select(CANDIDATES[-1:], TUNED, 75.0) is None
    wiser = scored("wiser", 20.1, 97.0, f1=41.0)
    assert select([CANDIDATES[-1], wiser], TUNED, 75.0) is wiser


def test_rounding_does_not_decide():
    near = scored("near", 40.0, 95.0 - 1e-12)
    assert select([near], TUNED, 95.0) is near
    assert select([scored("short", 40.0, 95.0 - 1e-6)], TUNED, 95.0) is None
    assert select([scored("same", 20.0 + 1e-12, 95.0)], TUNED, 95.0) is None
    higher = scored("higher", 20.0 + 1e-6, 95.0)
    assert select([higher], TUNED, 95.0) is higher
    # A tie but for rounding is a tie: the better F1 goes first.
    first, second = scored("a", 40.0 + 1e-12, 95.0, f1=50.0), scored("b", 40.0, 95.0, f1=51.0)
    assert select([first, second], TUNED, 95.0) is second
    third = scored("c", 40.0, 96.0, f1=51.0 - 1e-12)
    assert select([second, third], TUNED, 95.0) is third


def test_no_candidate_no_selection():
    assert select([], TUNED, 75.0) is None
    assert select(CANDIDATES, TUNED, 99.5) is None


def test_an_undefined_retention_keeps_nothing():
    assert select([scored("odd", 90.0, math.nan)], TUNED, 75.0) is None


def test_ties_go_to_the_better_f1_then_retention_then_to_the_earlier():
    kept = scored("kept", 40.0, 98.0, f1=59.0)
    first, second = scored("a", 40.0, 96.0, f1=60.0), scored("b", 40.0, 97.0, f1=60.0)
    twin = scored("c", 40.0, 97.0, f1=60.0)
    assert select([kept, first, second, twin], TUNED, 95.0) is second


@pytest.mark.parametrize(
    ("retention", "name"), [(89.9, "bold"), (90.0, "good"), (95.5, "careful"), (99.5, "tuned")]
)
def test_a_baseline_keeps_at_least_as_much_as_the_row(retention: float, name: str):
    """Its own candidate by the same rule; the tuned model where none qualifies."""
    found = select_baseline(metrics(25.0, retention), CANDIDATES, Scored.tuned(TUNED))
    assert found is not None and found.settings["made"] == name


def test_a_baseline_that_cannot_keep_as_much_is_the_tuned_model_or_nobody():
    tuned = Scored.tuned(TUNED)
    assert select_baseline(metrics(25.0, 100.0 + 1e-12), CANDIDATES, tuned) is tuned
    assert select_baseline(metrics(25.0, 100.1), CANDIDATES, tuned) is None
    better = scored("better", 25.0, 100.2)
    assert select_baseline(metrics(25.0, 100.1), [better], tuned) is better
    assert tuned.validation is TUNED and tuned.seconds == 0.0


def test_the_baselines_are_methods_of_the_trial():
    names = {method.name for method in METHODS}
    assert names >= {name for own in BASELINES.values() for name in own}


def test_the_front_is_of_delta_and_retention():
    beaten = scored("beaten", 39.0, 94.0, f1=99.0)
    assert on_front([*CANDIDATES[:4], beaten]) == [True, True, True, True, False]


def test_metrics_and_selections_come_back_from_json():
    baselines = {"interpolation": Selected(CANDIDATES[0], metrics(28.0, 97.0))}
    selected = Selected(CANDIDATES[1], metrics(38.0, math.nan), baselines)
    found = Selected.from_dict(selected.as_dict())
    assert found.candidate == selected.candidate
    assert math.isnan(found.test.retention)
    assert found.baselines == baselines
    assert read_metrics(TUNED.as_dict()) == TUNED


def test_a_selection_without_baselines_in_its_file_is_of_another_trial():
    """So that results from before each row had its baselines are not read as if they had."""
    found = Selected(CANDIDATES[1], metrics(38.0, 90.0)).as_dict()
    del found["rivals"]
    with pytest.raises(KeyError, match="rivals"):
        Selected.from_dict(found)
