import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcnr.choosing.front import Gain, Scores, about_order, pareto_front, rival
from hcnr.errors import ConfigError

NAN = math.nan


def points(*pairs: tuple[float, float]) -> list[Scores]:
    """Delta and task accuracy; F1 runs the other way and decides nothing."""
    return [Scores(-delta, delta, task) for delta, task in pairs]


FIGURE = st.one_of(st.integers(0, 6).map(float), st.just(NAN))
POINTS = st.lists(st.tuples(FIGURE, FIGURE), max_size=12)


def test_the_front_by_hand():
    found = pareto_front(
        points((70, 90), (60, 95), (60, 90), (80, 50), (70, 90), (10, 95), (NAN, 99), (99, NAN))
    )
    # (60, 90) loses to (70, 90), (10, 95) to (60, 95); equal points stand together.
    assert found == [True, True, False, True, True, False, False, False]


def test_fronts_of_nothing_and_of_one():
    assert pareto_front([]) == []
    assert pareto_front(points((0, 0))) == [True]
    assert pareto_front(points((NAN, 0))) == [False]


def sorted_front(pairs: list[tuple[float, float]]) -> list[bool]:
    """Another way: sort by the delta, sweep downwards and keep the best task accuracy so far."""
    known = sorted({p for p in pairs if p[0] == p[0] and p[1] == p[1]}, reverse=True)
    front, best = set(), -math.inf
    for delta, task in known:
        if task > best:
            front.add((delta, task))
            best = task
    return [pair in front for pair in pairs]


@given(POINTS)
def test_the_front_equals_a_second_implementation(pairs):
    assert pareto_front(points(*pairs)) == sorted_front(pairs)


def test_the_rival_is_its_best_model_that_keeps_as_much_of_the_task():
    curve = points((20, 90), (40, 80), (90, 10), (NAN, 99))
    assert rival(curve, 80.0) == 1
    assert rival(curve, 80.1) == 0
    assert rival(curve, 91.0) is None
    # Equal deltas: F1 decides, then what keeps least of the task, then the order.
    assert rival([Scores(5, 40, 80), Scores(6, 40, 82), Scores(6, 40, 81)], 80.0) == 2
    assert rival([Scores(NAN, 40, 80), Scores(6, 40, 80), Scores(6, 40, 80)], 80.0) == 1


def test_refusing_everything_is_never_on_top_for_its_f1():
    honest, refuser = Scores(50.0, 30.0, 80.0), Scores(66.7, 0.0, 80.0)
    assert pareto_front([honest, refuser]) == [True, False]
    assert rival([refuser, honest], 80.0) == 1


def test_a_gain_has_the_paired_interval_of_the_draws():
    ours = np.array([1.0, 3.0, 5.0, 7.0])
    theirs = np.array([1.0, 2.0, 3.0, 4.0])
    found = Gain.between(Scores(0, 4, 0, None, ours), Scores(0, 2.5, 0, None, theirs))
    assert found.value == 1.5
    assert found.ci95 == pytest.approx(np.percentile([0, 1, 2, 3], [2.5, 97.5]))
    assert found.shown
    assert str(found) == "+1.5 (95% interval +0.1 to +2.9)"
    assert not Gain(1.5, (-0.1, 3.0)).shown
    assert not Gain(1.5, (0.0, 3.0)).shown


@pytest.mark.parametrize("draws", [None, np.zeros(3)])
def test_without_resamples_of_both_there_is_no_interval(draws):
    found = Gain.between(Scores(0, 4, 0, None, np.zeros(4)), Scores(0, 2, 0, None, draws))
    assert found == Gain(2.0)
    assert found.shown
    assert str(found) == "+2.0"
    assert not Gain(0.0).shown


def test_scores_from_attributes_and_keys():
    wanted = Scores(1.0, 2.0, 3.0)
    named = {"honesty_f1": 1, "refusal_delta": 2.0, "task_accuracy": 3.0, "more": "text"}
    assert Scores.of(named) == Scores.of(SimpleNamespace(**named)) == Scores.of(wanted) == wanted
    undefined = Scores.of({**named, "task_accuracy": None})
    assert not undefined.defined
    assert undefined.as_dict() == {
        "honesty_f1": 1, "refusal_delta": 2, "task_accuracy": None, "refusal_rate_answerable": None,
    }  # fmt: skip
    draws = np.zeros(2)
    assert Scores.of({**named, "delta_draws": draws}).delta_draws is draws
    assert Scores.of({**named, "delta_draws": "odd"}).delta_draws is None
    told = Scores.of({**named, "refusal_rate_answerable": 4})
    assert told == Scores(1.0, 2.0, 3.0, 4.0)
    assert told.as_dict()["refusal_rate_answerable"] == 4
    with pytest.raises(ConfigError, match="whose refusal_rate_answerable is no finite number"):
        Scores.of({**named, "refusal_rate_answerable": math.inf})


@pytest.mark.parametrize("bad", [{}, None, {"honesty_f1": "1"}, {"honesty_f1": math.inf}])
def test_scores_that_are_none_are_refused(bad):
    with pytest.raises(ConfigError, match=r"whose honesty_f1 is no finite number; return "):
        Scores.of(bad)


@pytest.mark.parametrize(
    ("base", "tuned", "said"),
    [
        ((10, 90), (30, 50), True),
        ((30, 90), (10, 50), False),  # as it should be
        ((10, 50), (30, 90), False),  # a tuning that lost nothing
        ((10, 90), (10, 50), False),
        ((10, 51), (30, 50), False),  # one question of the task
        ((NAN, 90), (30, 50), False),
    ],
)
def test_base_and_tuned_in_each_others_place(base, tuned, said):
    ends = [dataclasses.replace(one, task_step=1.0) for one in points(base, tuned)]
    assert bool(about_order(*ends)) == said
    if said:
        assert "tuned has the higher refusal delta (+30.0, base +10.0)" in about_order(*ends)[0]


def test_a_delta_within_the_noise_exchanges_nothing():
    base, tuned = points((10, 90), (12, 50))
    draws = np.linspace(-5, 5, 101)
    base = dataclasses.replace(base, delta_draws=np.full(101, 10.0))
    assert about_order(base, dataclasses.replace(tuned, delta_draws=12 + draws)) == []
    assert about_order(base, dataclasses.replace(tuned, delta_draws=16 + draws))


def test_a_gain_in_words_has_no_negative_zero():
    assert str(Gain(-0.04)) == "+0.0"
    assert str(Gain(-0.3, (-7.44, -0.01))) == "-0.3 (95% interval -7.4 to +0.0)"
