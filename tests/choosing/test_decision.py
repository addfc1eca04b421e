import dataclasses
import json
import math

import numpy as np
import pytest

from hcnr.choosing.decision import WORDS, Evidence, Rival, decide, least_kept, weigh
from hcnr.choosing.front import Gain, Scores, rival
from hcnr.choosing.recommendation import recommend
from hcnr.record.files.decision import Recommended

NAN = math.nan
TUNED = Scores(20.0, 1.0, 90.0)


def points(*pairs: tuple[float, float]) -> list[Scores]:
    """Delta and task accuracy; F1 runs the other way and decides nothing."""
    return [Scores(50.0 - delta / 10, delta, task) for delta, task in pairs]


def drawn(delta: float, task: float, spread: float) -> Scores:
    """A model whose delta varies by so much over the questions."""
    return Scores(50.0, delta, task, None, delta + spread * np.linspace(-1, 1, 1001))


STILL = Scores(20.0, 1.0, 90.0, None, np.ones(1001))


SHOWN, NOT_SHOWN = Gain(9.0, (1.0, 17.0)), Gain(9.0, (-1.0, 19.0))
LESS = Gain(-9.0, (-12.0, -6.0))


@pytest.mark.parametrize(
    ("found", "word", "reason"),
    [
        (
            Evidence(SHOWN, 1.5),
            "use",
            "its refusal delta is +9.0 (95% interval +1.0 to +17.0) points over tuned's, and the "
            "task loses 1.5 points, 2 may be lost; no interpolation that was tried keeps as much "
            "of the task",
        ),
        (
            Evidence(SHOWN, -1.5, 2.0, Rival(0.3, SHOWN, SHOWN)),
            "use",
            "its refusal delta is +9.0 (95% interval +1.0 to +17.0) points over tuned's, and the "
            "task gains 1.5 points, 2 may be lost; plain interpolation with coefficient 0.3 keeps "
            "as much of the task, and the repair is +9.0 (95% interval +1.0 to +17.0) points above "
            "that",
        ),
        (
            Evidence(SHOWN, 1.5, 2.0, Rival(0.3, NOT_SHOWN, NOT_SHOWN)),
            "use",
            "but is not shown to be above tuned: +9.0 (95% interval -1.0 to +19.0)",
        ),
        (
            Evidence(SHOWN, 1.5, 2.0, Rival(0.3, SHOWN, NOT_SHOWN)),
            "interpolate instead",
            "and the repair is not shown to be above that: +9.0 (95% interval -1.0 to +19.0)",
        ),
        (
            Evidence(SHOWN, 1.5, 2.0, Rival(0.3, None, LESS)),
            "interpolate instead",
            "and the repair is not shown to be above that: -9.0",
        ),
        (
            Evidence(SHOWN, 2.1),
            "do not use",
            "points over tuned's, but the task loses 2.1 points, 2 may be lost",
        ),
        (
            Evidence(SHOWN, 2.1, 2.0, Rival(0.3, SHOWN, NOT_SHOWN)),
            "interpolate instead",
            "2 may be lost; plain interpolation with coefficient 0.3 is +9.0 (95% interval +1.0 to "
            "+17.0) points over tuned",
        ),
        (Evidence(SHOWN, 2.1, 2.0, Rival(0.3, NOT_SHOWN, SHOWN)), "do not use", "2 may be lost"),
        (Evidence(SHOWN, 2.1, 2.0, Rival(0.3, None, SHOWN)), "do not use", "2 may be lost"),
        (Evidence(NOT_SHOWN, 0.0), "do not use", "which is not shown to be above 0"),
        (Evidence(LESS, 0.0), "do not use", "which is not shown to be above 0"),
        (Evidence(NOT_SHOWN, None), "do not use", "which is not shown to be above 0"),
        (
            Evidence(NOT_SHOWN, 0.0, 2.0, Rival(1.0, SHOWN, NOT_SHOWN)),
            "interpolate instead",
            "above 0; plain interpolation with coefficient 1 (base itself) is +9.0",
        ),
        (Evidence(SHOWN, None), "unclear", "nothing says what the task lost"),
        (Evidence(None, 0.0), "unclear", "there is no refusal delta"),
        (Evidence(Gain(NAN), 0.0), "unclear", "there is no refusal delta"),
    ],
)
def test_every_arm_of_the_rule(found, word, reason):
    decision = decide(found)
    assert decision.word == word
    assert reason in decision.reason
    kept = json.loads(json.dumps(Recommended.by(decision).as_dict(), allow_nan=False))
    assert kept["word"] in WORDS and kept["max_accuracy_drop"] == 2.0
    assert (kept["interpolation"] is None) == (found.rival is None)


def test_a_model_that_refuses_everything_is_not_to_be_used():
    """Its F1 is the best of all, and it keeps the task as well as anyone."""
    everything = Scores(66.7, 0.0, 90.0, 100.0)
    honest = Scores(55.0, 1.0, 90.0, 5.0)
    assert decide(weigh(everything, honest)).word == "do not use"
    found = recommend([everything], honest, 2.0)
    assert (found.index, found.word) == (None, "do not use")
    # With intervals, too: the delta of refusing everything is 0 in every resample.
    everything = dataclasses.replace(everything, delta_draws=np.zeros(1001))
    honest = dataclasses.replace(honest, delta_draws=np.linspace(-9, 11, 1001))
    assert decide(weigh(everything, honest)).word == "do not use"


def test_a_gain_without_an_interval_counts_by_its_sign():
    assert decide(Evidence(Gain(0.1), 0.0)).word == "use"
    assert decide(Evidence(Gain(0.0), 0.0)).word == "do not use"
    assert decide(Evidence(Gain(0.1), 0.0, 2.0, Rival(0.3, Gain(0.1), Gain(0.0)))).word == (
        "interpolate instead"
    )


def test_the_rival_keeps_what_the_repair_keeps_or_what_must_be_kept():
    curve = [(c, Scores(30, 100 * c, 90 - 20 * c)) for c in (0.05, 0.1, 0.2, 0.9)]
    for repaired, coefficient in (
        (Scores(50, 40.0, 89.0), 0.05),  # 89: as much as the repair
        (Scores(50, 40.0, 88.0), 0.1),
        (Scores(50, 40.0, 50.0), 0.1),  # 88: the repair loses too much
        (Scores(50, 0.0, 89.9), 0.1),  # 88: the repair gains nothing
    ):
        other = weigh(repaired, TUNED, curve).rival
        assert other is not None and other.coefficient == coefficient
        assert other.gain == Gain(100 * coefficient - 1.0)
        assert other.lead == Gain(repaired.refusal_delta - 100 * coefficient)
    assert weigh(Scores(50, 40.0, 95.0), TUNED, curve).rival is None
    assert weigh(Scores(50, 40.0, NAN), TUNED, curve) == Evidence(Gain(39.0), None)
    assert weigh(Scores(50, NAN, 90.0), TUNED).gain is None


def test_what_ties_with_the_limit_is_kept():
    # 32.2 - 2.0 is a little above 30.2 in float64.
    assert 32.2 - 2.0 > 30.2 > least_kept(32.2, 2.0) > 30.199
    curve = [Scores(50, 10.0, 32.2), Scores(60, 30.0, 30.2)]
    assert rival(curve, least_kept(32.2, 2.0)) == 1
