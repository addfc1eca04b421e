import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcnr.choosing.front import Gain, Scores, pareto_front
from hcnr.choosing.recommendation import recommend

NAN = math.nan
TUNED = Scores(20.0, 1.0, 90.0)
FIGURE = st.one_of(st.integers(0, 6).map(float), st.just(NAN))
POINTS = st.lists(st.tuples(FIGURE, FIGURE), max_size=12)


def points(*pairs: tuple[float, float]) -> list[Scores]:
    """Delta and task accuracy; F1 runs the other way and decides nothing."""
    return [Scores(50.0 - delta / 10, delta, task) for delta, task in pairs]


def drawn(delta: float, task: float, spread: float) -> Scores:
    """A model whose delta varies by so much over the questions."""
    return Scores(50.0, delta, task, None, delta + spread * np.linspace(-1, 1, 1001))


STILL = Scores(20.0, 1.0, 90.0, None, np.ones(1001))
"""TUNED, with questions that all agree."""


def test_the_best_delta_within_the_drop_is_recommended():
    found = recommend(points((50, 91), (70, 88), (80, 87.9), (60, 89)), TUNED, 2.0)
    assert found.index == 1
    assert found.word == "use"
    assert found.gain == Gain(69.0)
    assert found.reason == (
        "the best refusal delta of the 3 of 4 candidates that are above tuned's +1.0 and keep the "
        "task: delta +70.0, task 88.0 (F1 43.0); its refusal delta is +69.0 points over tuned's, "
        "and the task loses 2.0 points, 2 may be lost; no interpolation that was tried keeps as "
        "much of the task"
    )
    # One more point of task accuracy may go, and the choice is another.
    assert recommend(points((50, 91), (70, 88), (80, 87.9)), TUNED, 3.0).index == 2


def test_the_best_f1_does_not_decide():
    """A model that refuses much of everything has a better F1 and knows less."""
    refuser, honest = Scores(66.0, 8.0, 90.0, 90.0), Scores(55.0, 40.0, 89.0, 5.0)
    assert recommend([refuser, honest], TUNED, 2.0).index == 1


def test_the_limit_is_not_decided_by_rounding():
    tuned, candidate = Scores(0.0, 0.0, 100 * 7 / 150), Scores(10.0, 1.0, 100 * 4 / 150)
    assert tuned.task_accuracy - candidate.task_accuracy > 2.0  # by a few bits
    assert "keep the task: delta" in recommend([candidate], tuned, 2.0).reason
    assert recommend([candidate], tuned, 2.0).word == "use"


def test_ties_go_to_f1_then_to_the_task_and_then_to_the_earlier_candidate():
    tied = [Scores(60, 70, 89), Scores(61, 70 + 1e-12, 88), Scores(61, 70, 88.5)]
    assert recommend(tied, TUNED, 2.0).index == 2
    assert recommend([*tied, tied[2]], TUNED, 2.0).index == 2
    assert recommend(points((10, 50), (20, 50), (20, 50)), TUNED, 2.0).index == 1


def test_nobody_qualifies_so_the_least_drop_is_named_and_not_to_be_used():
    found = recommend(points((80, 50), (60, 80), (NAN, 85)), TUNED, 2.0)
    assert found.index == 1
    assert found.word == "do not use"
    assert found.reason == (
        "none of 3 candidates is above tuned's delta of +1.0 and keeps the task; of those above it "
        "this one loses least: delta +60.0, task 80.0 (F1 44.0); its refusal delta is +59.0 points "
        "over tuned's, but the task loses 10.0 points, 2 may be lost"
    )


def test_the_interval_against_tuned_is_named_and_a_gain_within_it_is_not_recommended():
    found = recommend([drawn(41.0, 90.0, 10.0)], STILL, 2.0)
    assert found.word == "use"
    assert "is +40.0 (95% interval +30.5 to +49.5) points over tuned's, and" in found.reason
    found = recommend([drawn(6.0, 90.0, 10.0)], STILL, 2.0)
    assert (found.index, found.word) == (0, "do not use")
    assert "(95% interval -4.5 to +14.5) points over tuned's, which is not shown" in found.reason


CURVE = [(0.0, TUNED), (0.3, Scores(40, 30.0, 89.5)), (0.6, Scores(70, 60.0, 70.0))]


@pytest.mark.parametrize(
    ("delta", "word"), [(30.1, "use"), (30.0, "interpolate instead"), (20.0, "interpolate instead")]
)
def test_interpolation_that_does_as_well_is_to_be_taken_instead(delta, word):
    found = recommend([Scores(50, delta, 89.0)], TUNED, 2.0, CURVE)
    assert found.index == 0
    assert found.word == word
    assert "plain interpolation with coefficient 0.3 keeps as much of the task" in found.reason
    assert (found.coefficient == 0.3) == (word != "use")


def test_a_lead_over_interpolation_must_be_shown():
    curve = [(0.3, drawn(31.0, 89.5, 1.0))]
    candidate = drawn(36.0, 89.0, 10.0)
    assert recommend([candidate], STILL, 2.0, curve).word == "interpolate instead"
    # Paired: where the same questions move both, the difference is sure.
    curve = [(0.3, drawn(31.0, 89.5, 10.0))]
    found = recommend([candidate], STILL, 2.0, curve)
    assert found.word == "use" and "+5.0 (95% interval +5.0 to +5.0) points above" in found.reason


def test_interpolation_must_keep_as_much_of_the_task_as_the_candidate():
    found = recommend([Scores(50, 20.0, 89.8)], TUNED, 2.0, CURVE)
    assert found.word == "use"
    assert "coefficient 0 (tuned itself) keeps as much of the task, and the repair is +19.0" in (
        found.reason
    )


def test_interpolation_is_not_advised_where_its_own_gain_is_within_the_noise():
    curve = [(0.0, STILL), (0.5, drawn(8.0, 90.0, 10.0)), (1.0, drawn(50.0, 10.0, 1.0))]
    found = recommend([drawn(6.0, 90.0, 10.0)], STILL, 2.0, curve)
    assert (found.word, found.coefficient) == ("do not use", None)


@pytest.mark.parametrize("candidates", [points((80, 50)), points((0, 95))])
def test_where_no_candidate_will_do_interpolation_may(candidates):
    found = recommend(candidates, TUNED, 2.0, CURVE)
    assert (found.word, found.coefficient) == ("interpolate instead", 0.3)
    # Nor is it advised where it does not keep the task either, or gains nothing.
    found = recommend(candidates, TUNED, 0.1, CURVE)
    assert (found.word, found.coefficient) == ("do not use", None)


@pytest.mark.parametrize("delta", [0.0, 1.0, NAN])
def test_a_candidate_that_refuses_more_of_everything_is_never_recommended(delta):
    refuser, honest = Scores(66.7, delta, 95.0), Scores(30.0, 1.5, 89.0)
    assert recommend([refuser, honest], TUNED, 2.0).index == 1
    # Not even where it alone keeps the task.
    assert recommend([refuser, Scores(30.0, 1.5, 10.0)], TUNED, 2.0).index == 1
    found = recommend([refuser, Scores(NAN, 0, 0)], TUNED, 2.0)
    assert found.index is None
    assert found.word == "do not use"
    assert "no candidate has a refusal delta above tuned's +1.0" in found.reason


def test_nothing_to_recommend():
    for candidates, tuned in (
        ([], TUNED),
        (points((NAN, 90), (50, NAN)), TUNED),
        (points((50, 90)), Scores(20, 0, NAN)),
        (points((50, 90)), Scores(20, NAN, 90)),
    ):
        found = recommend(candidates, tuned, 2.0)
        assert found.index is None
        assert found.word == "unclear"
        assert found.gain is found.coefficient is None
        assert found.reason.startswith("nothing is recommended: ")


@given(POINTS, st.integers(0, 6))
def test_what_is_recommended_is_on_the_front_of_what_qualifies(pairs, drop):
    candidates = points(*pairs)
    tuned = Scores(0.0, -1.0, 6.0)
    index = recommend(candidates, tuned, drop).index
    able = [p for p in candidates if p.defined and p.task_accuracy >= 6 - drop]
    if able:
        assert index is not None
        chosen = candidates[index]
        assert chosen in able
        assert chosen.refusal_delta == max(p.refusal_delta for p in able)
        assert pareto_front(able)[able.index(chosen)]
    elif index is not None:
        known = [p for p in candidates if p.defined]
        assert candidates[index].task_accuracy == max(p.task_accuracy for p in known)
