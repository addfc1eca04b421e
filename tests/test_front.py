import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcnr.errors import ConfigError
from hcnr.front import Scores, pareto_front, recommend, rival

NAN = math.nan


def points(*pairs: tuple[float, float]) -> list[Scores]:
    return [Scores(f1, 10.0, task) for f1, task in pairs]


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
    """Another way: sort by F1, then sweep downwards keeping the best task accuracy so far."""
    known = sorted({p for p in pairs if p[0] == p[0] and p[1] == p[1]}, reverse=True)
    front, best = set(), -math.inf
    for f1, task in known:
        if task > best:
            front.add((f1, task))
            best = task
    return [pair in front for pair in pairs]


@given(POINTS)
def test_the_front_equals_a_second_implementation(pairs):
    assert pareto_front(points(*pairs)) == sorted_front(pairs)


TUNED = Scores(20.0, 1.0, 90.0)


def test_the_best_f1_within_the_drop_is_recommended():
    found = recommend(points((50, 91), (70, 88), (80, 87.9), (60, 89)), TUNED, 2.0)
    assert found.index == 1
    assert found.reason == (
        "the best honesty F1, 70.0, of the 3 of 4 candidates whose refusal delta is above the "
        "tuned model's +1.0 and whose task accuracy is at most 2 points under its 90.0; this one "
        "has F1 70.0, delta +10.0 and task accuracy 88.0, which loses 2.0"
    )
    # One more point of task accuracy may go, and the choice is another.
    assert recommend(points((50, 91), (70, 88), (80, 87.9)), TUNED, 3.0).index == 2


def test_the_limit_is_not_decided_by_rounding():
    tuned, candidate = Scores(0.0, 0.0, 100 * 7 / 150), Scores(10.0, 1.0, 100 * 4 / 150)
    assert tuned.task_accuracy - candidate.task_accuracy > 2.0  # by a few bits
    assert "at most 2 points under" in recommend([candidate], tuned, 2.0).reason


def test_ties_go_to_the_task_and_then_to_the_earlier_candidate():
    assert recommend(points((70, 88), (70, 89), (70, 89)), TUNED, 2.0).index == 1
    assert recommend(points((10, 50), (20, 50), (20, 50)), TUNED, 2.0).index == 1


def test_nobody_qualifies_so_the_least_drop_is_named():
    found = recommend(points((80, 50), (60, 80), (NAN, 85)), TUNED, 2.0)
    assert found.index == 1
    assert found.reason.startswith("none of 3 candidates has a refusal delta above the tuned ")
    assert "keeps task accuracy within 2 points of its 90.0" in found.reason
    assert "loses least, 10.0 points, with F1 60.0, delta +10.0" in found.reason


def test_a_gain_and_a_repair_that_gains_nothing_are_said():
    assert recommend(points((70, 92)), TUNED, 2.0).reason.endswith("92.0, which gains 2.0")
    assert "nothing is gained" in recommend(points((20, 90)), TUNED, 2.0).reason


@pytest.mark.parametrize("delta", [0.0, 1.0, NAN])
def test_a_candidate_that_refuses_more_of_everything_is_never_recommended(delta):
    refuser, honest = Scores(66.7, delta, 95.0), Scores(30.0, 1.5, 89.0)
    assert recommend([refuser, honest], TUNED, 2.0).index == 1
    # Not even where it alone keeps the task.
    assert recommend([refuser, Scores(30.0, 1.5, 10.0)], TUNED, 2.0).index == 1
    found = recommend([refuser], TUNED, 2.0)
    assert found.index is None
    assert "no candidate has a refusal delta above the tuned model's +1.0" in found.reason


def test_nothing_to_recommend():
    for candidates, tuned in (
        ([], TUNED),
        (points((NAN, 90), (50, NAN)), TUNED),
        (points((50, 90)), Scores(20, 0, NAN)),
        (points((50, 90)), Scores(20, NAN, 90)),
    ):
        found = recommend(candidates, tuned, 2.0)
        assert found.index is None
        assert found.reason.startswith("nothing is recommended: ")


@given(POINTS, st.integers(0, 6))
def test_what_is_recommended_is_on_the_front_of_what_qualifies(pairs, drop):
    candidates = points(*pairs)
    tuned = Scores(0.0, 0.0, 6.0)
    index = recommend(candidates, tuned, drop).index
    able = [p for p in candidates if p.defined and p.task_accuracy >= 6 - drop]
    if able:
        assert index is not None
        chosen = candidates[index]
        assert chosen in able
        assert chosen.honesty_f1 == max(p.honesty_f1 for p in able)
        assert pareto_front(able)[able.index(chosen)]
    elif index is not None:
        known = [p for p in candidates if p.defined]
        assert candidates[index].task_accuracy == max(p.task_accuracy for p in known)


def test_the_rival_is_its_best_model_that_keeps_as_much_of_the_task():
    curve = points((20, 90), (40, 80), (90, 10), (NAN, 99))
    assert rival(curve, 80.0) == 1
    assert rival(curve, 80.1) == 0
    assert rival(curve, 91.0) is None
    assert rival(points((40, 80), (40, 90)), 80.0) == 0


def test_scores_from_attributes_and_keys():
    wanted = Scores(1.0, 2.0, 3.0)
    named = {"honesty_f1": 1, "refusal_delta": 2.0, "task_accuracy": 3.0, "more": "text"}
    assert Scores.of(named) == Scores.of(SimpleNamespace(**named)) == Scores.of(wanted) == wanted
    undefined = Scores.of({**named, "task_accuracy": None})
    assert not undefined.defined
    assert undefined.as_dict() == {
        "honesty_f1": 1, "refusal_delta": 2, "task_accuracy": None, "refusal_rate_answerable": None,
    }  # fmt: skip
    told = Scores.of({**named, "refusal_rate_answerable": 4})
    assert told == Scores(1.0, 2.0, 3.0, 4.0)
    assert told.as_dict()["refusal_rate_answerable"] == 4
    with pytest.raises(ConfigError, match="whose refusal_rate_answerable is no finite number"):
        Scores.of({**named, "refusal_rate_answerable": math.inf})


@pytest.mark.parametrize("bad", [{}, None, {"honesty_f1": "1"}, {"honesty_f1": math.inf}])
def test_scores_that_are_none_are_refused(bad):
    with pytest.raises(ConfigError, match=r"whose honesty_f1 is no finite number; return "):
        Scores.of(bad)
