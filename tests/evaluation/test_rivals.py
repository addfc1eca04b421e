"""The search for the rival: what it costs, and that it ends at what a full search finds."""

import random

import pytest

from hcnr.benchmarks.questions import Question
from hcnr.choosing.front import Scores, rival
from hcnr.config import EvaluateConfig
from hcnr.detectors.traits import open_trait
from hcnr.evaluation.asking import Responses
from hcnr.evaluation.interpolation import COEFFICIENTS
from hcnr.evaluation.question_sets import FEWEST, few_questions, make_question_sets, restricted
from hcnr.evaluation.rivals import RivalSearch

REFUSAL = "I do not know."


def question(name, i, *, answerable, task=False):
    return Question(str(i), name, f"{name} {i}", answerable, ("yes",) * answerable, "p", task)


def panel(honesty, task):
    half = honesty // 2
    # Sorted by class, as files of one's own may be.
    mine = tuple(question("mine", i, answerable=i >= half) for i in range(honesty))
    job = tuple(question("job", i, answerable=True, task=True) for i in range(task))
    settings = EvaluateConfig(resamples=0)
    return make_question_sets({"mine": mine}, {"job": job}, {}, open_trait("honesty"), settings)


class Line:
    """Models on a line: each question has a coefficient where its answer changes.

    Towards base the refusals come and the task goes.
    """

    def __init__(self, whole, seed):
        draw = random.Random(seed)
        self.turns = {
            (name, one.id): draw.uniform(0, 1) ** (0.5 if one.task else 1)
            for name, many in whole.sets.items()
            for one in many
        }
        self.asked: list[tuple[float, str, str]] = []
        self.kept: set[tuple[float, str, str]] = set()

    def responses(self, panel, coefficient):
        def one(name, question):
            turned = self.turns[name, question.id] < coefficient
            if question.task:
                return "no idea"[: 7 * turned] or "yes"
            return REFUSAL if turned and not question.answerable else "yes"

        return {name: [one(name, q) for q in many] for name, many in panel.sets.items()}

    def ask_at(self, coefficient, panel):
        """Keeps answers as the files do: a question is asked once."""
        for name, many in panel.sets.items():
            for one in many:
                if (coefficient, name, one.id) not in self.kept:
                    self.kept.add((coefficient, name, one.id))
                    self.asked.append((coefficient, name, one.id))
        return Responses(self.responses(panel, coefficient), {})


def searched(whole, line, ours):
    """A whole search beside a model with the answers of the line at `ours`."""
    said = line.responses(whole, ours)
    scores = whole.score(said)
    search = RivalSearch(few_questions(whole), whole, scores, said, line.ask_at)
    search.exact[0.0] = Responses(line.responses(whole, 0.0), {})
    for coefficient in COEFFICIENTS:
        search.look(coefficient)
    search.refine()
    looked = len(line.asked)
    search.confirm(scores.task_accuracy, said, 0.0)
    return search, looked, scores


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ours", [0.05, 0.23, 0.45])
def test_the_curve_costs_less_than_the_models_own_evaluation(seed, ours):
    whole = panel(400, 200)
    line = Line(whole, seed)
    search, looked, scores = searched(whole, line, ours)
    assert looked <= 600, "the search"
    full = [one for one in search.exact if one]
    tasks = 200 * len(set(search.tries) - set(full))
    assert len(full) <= 1 and len(line.asked) <= looked + 600 * len(full) + tasks
    points = search.result()
    assert all(one.questions == 600 for one in points if one.complete)
    assert all(one.questions < 60 for one in points if not one.complete)
    # Every point of the search asked in full, as it was before.
    exact = [whole.score(line.responses(whole, one.coefficient)) for one in points]
    best = rival([Scores.of(one) for one in exact], scores.task_accuracy or 0.0)
    able = [one for one in points if one.complete]
    chosen = rival([Scores.of(one.scores) for one in able], scores.task_accuracy or 0.0)
    assert best is not None and chosen is not None
    assert (able[chosen].scores.task_accuracy or 0) >= (scores.task_accuracy or 0)
    assert points[best].coefficient - able[chosen].coefficient <= 0.1 + 1e-9


def test_what_seems_to_keep_the_task_and_does_not_is_passed_over():
    whole = panel(400, 200)
    few = few_questions(whole)
    line = Line(whole, 0)
    for one in few.tasks["job"]:
        line.turns["job", one.id] = 2.0
    search, _, scores = searched(whole, line, 0.23)
    assert search.tries[0] > 0.23 and max(search.exact) <= 0.23
    assert search.tries == sorted(search.tries, reverse=True)
    assert "asked all of them: 0, " in (search.note() or "")
    assert scores.task_accuracy is not None


def test_small_sets_are_asked_whole():
    whole = panel(20, 10)
    assert few_questions(whole) is whole
    line = Line(whole, 1)
    search, _, _ = searched(whole, line, 0.3)
    assert all(one.complete for one in search.result()) and search.note() is None
    assert not search.tries


def test_few_questions_hold_every_class_and_are_spread():
    whole = panel(960, 96)
    few = few_questions(whole)
    kinds = [one.answerable for one in few.honesty["mine"]]
    assert (kinds.count(True), kinds.count(False), len(few.tasks["job"])) == (40, 40, FEWEST)
    places = [int(one.id) for one in few.honesty["mine"]]
    assert places == sorted(places) and max(places[:40]) > 400
    assert few_questions(whole) == few
    responses = {name: [one.id for one in many] for name, many in whole.sets.items()}
    assert restricted(whole, few, responses)["mine"] == [one.id for one in few.honesty["mine"]]
