"""The interpolated models of an evaluation: searched with few questions, the rival asked all.

A full pass over the questions for every coefficient would cost many times what the model itself
does. So every point is asked a twelfth of the questions; from the most honest one that may keep as
much of the task downwards, one is asked all of the task until it does, and then everything.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcnr.choosing.decision import least_kept, weigh
from hcnr.choosing.front import ROUNDING, Scores
from hcnr.evaluation.asking import EvaluationRun, Responses
from hcnr.evaluation.evaluated_models import EvaluatedModel, ask, opened
from hcnr.evaluation.hashes import model_sha256
from hcnr.evaluation.interpolation import (
    COEFFICIENTS,
    HALVINGS,
    RivalPoint,
    between,
    check_interpolable,
    floating_parameters,
    interpolated,
    order_notes,
)
from hcnr.evaluation.judged import INTERPOLATION
from hcnr.evaluation.question_sets import QuestionSets, count, few_questions, restricted
from hcnr.evaluation.scoring import SetScores


@dataclasses.dataclass
class RivalSearch:
    """A search for the interpolated model that a repair must beat.

    Attributes:
        few: the sets with the questions that every point is asked.
        whole: the sets with all of them.
        ours: scores of the model that is compared, over all questions.
        our_answers: its answers.
        ask_at: asks the model of a coefficient the questions of some sets.
        points: what was asked so far, by coefficient.
        exact: answers of points that were asked everything.
        tries: coefficients that were asked all of the task.
    """

    few: QuestionSets
    whole: QuestionSets
    ours: SetScores
    our_answers: Mapping[str, Sequence[str]]
    ask_at: Callable[[float, QuestionSets], Responses]
    points: dict[float, SetScores] = dataclasses.field(default_factory=dict)
    exact: dict[float, Responses] = dataclasses.field(default_factory=dict)
    answers: dict[float, Responses] = dataclasses.field(default_factory=dict)
    tries: list[float] = dataclasses.field(default_factory=list)

    @property
    def searches(self) -> bool:
        """Whether few questions are fewer than all."""
        return self.few is not self.whole

    def look(self, coefficient: float) -> None:
        """Ask a point the few questions, or read them off its answers."""
        if coefficient in self.exact:
            responses = restricted(self.whole, self.few, self.exact[coefficient].by_set)
        else:
            answers = self.answers[coefficient] = self.ask_at(coefficient, self.few)
            responses = answers.by_set
            if not self.searches:
                self.exact[coefficient] = answers
        self.points[coefficient] = self.few.score(responses)

    def refine(self) -> None:
        """Look between the points, towards the task accuracy of the model on the few questions."""
        wanted = self._on_few(self.our_answers).task_accuracy
        for _ in range(HALVINGS if wanted is not None else 0):
            assert wanted is not None
            curve = [(c, scores.task_accuracy) for c, scores in self.points.items()]
            middle = between(curve, wanted)
            if middle is None:
                return
            self.look(middle)

    def confirm(self, least: float | None, like: Mapping[str, Sequence[str]], slack: float) -> None:
        """Ask everything of the best point that keeps enough of the task on all task questions.

        Args:
            least: task accuracy that must be kept, in percent.
            like: answers of the model whose task accuracy, less `slack`, that is.
            slack: points.
        """
        if least is None or not self.searches:
            return
        reference, ceiling = self._on_few(like), math.inf
        able = [
            (c, scores)
            for c, scores in self.points.items()
            if c > 0 and _may_keep(scores, reference, slack)
        ]
        # By what decides; tuned itself needs no search.
        able.sort(key=lambda point: Scores.of(point[1]).merit, reverse=True)
        for coefficient, _ in able:
            # What keeps more of base keeps less of the task.
            if coefficient >= ceiling:
                continue
            if coefficient not in self.exact:
                task = self._task_accuracy(coefficient)
                if task is None or task < least:
                    ceiling = coefficient
                    continue
                self.exact[coefficient] = self.ask_at(coefficient, self.whole)
            accuracy = self.whole.score(self.exact[coefficient].by_set).task_accuracy
            if accuracy is not None and accuracy >= least:
                return
            ceiling = coefficient

    def result(self) -> list[RivalPoint]:
        """All points by coefficient; a complete one has its scores over all questions."""
        points = []
        for coefficient in sorted(self.points):
            complete = coefficient in self.exact
            answers = self.exact[coefficient] if complete else self.answers[coefficient]
            scores = self.whole.score(answers.by_set) if complete else self.points[coefficient]
            points.append(RivalPoint(coefficient, scores, answers, complete))
        return points

    def note(self) -> str | None:
        """What a reader of the curve should know."""
        if not self.searches:
            return None
        few, all_ = count(self.few), count(self.whole)
        points = [f"{c:g}" for c in sorted(self.exact)]
        return (
            f"Interpolation was searched with {few} of the {all_} questions at "
            f"{len(self.points)} coefficients; asked all of them: {', '.join(points) or 'none'}."
        )

    def _task_accuracy(self, coefficient: float) -> float | None:
        self.tries.append(coefficient)
        alone = dataclasses.replace(self.whole, honesty={})
        return alone.score(self.ask_at(coefficient, alone).by_set).task_accuracy

    def _on_few(self, responses: Mapping[str, Sequence[str]]) -> SetScores:
        return self.few.score(restricted(self.whole, self.few, responses))


def search_rivals(
    base: EvaluatedModel,
    tuned: EvaluatedModel,
    run: EvaluationRun,
    ours: tuple[SetScores, Responses],
    known: Mapping[str, Responses],
    notes: list[str],
) -> list[RivalPoint]:
    """Ask models between tuned and base, few questions first.

    Args:
        base: one end.
        tuned: the other.
        run: the questions, and how they are put; its `coefficients` are tried, or a grid that is
            refined.
        ours: scores and answers of the model that is compared.
        known: answers of models by SHA-256; these are not asked again.
        notes: gets what stays as tuned in all of them, and how the search went.
    """
    whole = dataclasses.replace(run.question_sets, resamples=0)
    run = dataclasses.replace(run, refusal=None)
    coefficients, opening = run.config.coefficients, run.opening
    with (
        opened(tuned, run.config.tokenizer, opening) as (network, reader),
        base.source.opened(opening) as end,
    ):
        if left := check_interpolable(end, network):
            notes.append(
                f"Interpolation leaves {' and '.join(left)} as tuned: base has another vocabulary."
            )
        honest = floating_parameters(end)

        def ask_at(coefficient: float, question_sets: QuestionSets) -> Responses:
            with interpolated(network, honest, coefficient):
                label = f"{INTERPOLATION}{coefficient:g}"
                sha256 = model_sha256(network)
                some = dataclasses.replace(run, question_sets=question_sets)
                return ask(some, label, sha256, network, reader)

        search = RivalSearch(few_questions(whole), whole, ours[0], ours[1].by_set, ask_at)
        grid = COEFFICIENTS if coefficients is None else coefficients
        if 0 in grid:
            start = known.get(tuned.sha256)
            search.exact[0.0] = ask_at(0.0, whole) if start is None else start
        for coefficient in grid:
            search.look(coefficient)
        if coefficients is None:
            search.refine()
        search.confirm(ours[0].task_accuracy, ours[1].by_set, 0.0)
        _confirm_for_tuned(search, known.get(tuned.sha256), run.config.max_accuracy_drop)
    if (note := search.note()) is not None:
        notes.append(note)
    notes += order_notes(search.points, ours[0].resamples, ours[0].seed)
    return search.result()


def _confirm_for_tuned(
    search: RivalSearch, start: Responses | None, max_accuracy_drop: float
) -> None:
    """Where the repair will not do, the rival is the one that keeps as much as must be kept."""
    start = start or search.exact.get(0.0)
    if start is None or not search.whole.honesty:
        return
    tuned = search.whole.score(start.by_set)
    evidence = weigh(Scores.of(search.ours), Scores.of(tuned), (), max_accuracy_drop)
    if not evidence.will_do and tuned.task_accuracy is not None:
        least = least_kept(tuned.task_accuracy, max_accuracy_drop)
        search.confirm(least, start.by_set, max_accuracy_drop)


def _may_keep(point: SetScores, reference: SetScores, slack: float) -> bool:
    """Whether a point may keep the reference's task accuracy less `slack`, on few questions.

    One standard error of the paired difference is allowed for.
    """
    gaps, variances = [], []
    for name, ours in point.tasks.items():
        other = reference.tasks[name]
        gap = 100.0 * (ours.contained.astype(float) - other.contained.astype(float))[other.gold]
        if len(gap):
            gaps.append(gap.mean())
            variances.append(gap.var() / len(gap))
    if not gaps:
        return False
    error = math.sqrt(sum(variances)) / len(gaps)
    return bool(np.mean(gaps) + slack + error >= -ROUNDING)
