"""The rival that every repair stands beside: plain interpolation of all weights towards the base.

Each interpolated model is applied to the tuned one in memory and undone exactly. Which of them are
asked, and what, is `hcnr.evaluation.rivals`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hcnr.choosing.front import Scores, about_order, rival
from hcnr.errors import CheckpointError
from hcnr.evaluation.asking import Responses
from hcnr.evaluation.scoring import SetScores
from hcnr.models.overlay import Overlay, interpolate
from hcnr.record.writing import report_of

if TYPE_CHECKING:
    from typing_extensions import Self

# 0 is the tuned model, 1 the base; past half way little of the task is left.
COEFFICIENTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

# A model's task accuracy is matched within a point, or to an eighth of the grid's step.
CLOSE = 1.0
HALVINGS = 3


@dataclass(frozen=True)
class RivalPoint:
    """One interpolated model.

    Attributes:
        coefficient: 0 is tuned, 1 base.
        scores: without intervals, over what it was asked.
        responses: its answers.
        complete: whether it was asked everything.
    """

    coefficient: float
    scores: SetScores
    responses: Responses
    complete: bool

    @property
    def questions(self) -> int:
        """How many it was asked."""
        return sum(map(len, self.responses.by_set.values()))


@dataclass(frozen=True)
class RivalCurve:
    """The interpolated models of an evaluation, and the one that the model is held against.

    Attributes:
        points: by coefficient.
        chosen: the best one at no less task accuracy than the model's; None where there is none.
        notes: what a reader of it should know.
    """

    points: list[RivalPoint] = field(default_factory=list)
    chosen: RivalPoint | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def beside(cls, scores: SetScores, points: list[RivalPoint], notes: list[str]) -> "Self":
        """Choose the point to hold beside a model; without any, a note says why.

        Args:
            scores: the model's.
            points: what was searched, by coefficient.
            notes: of the search.
        """
        complete = [point for point in points if point.complete]
        best = best_rival([(p.coefficient, p.scores) for p in complete], scores.task_accuracy)
        if best is not None:
            return cls(points, complete[best], notes)
        if scores.task_accuracy is None:
            why = "the task accuracy is undefined, because no task question has a known answer"
        elif all(point.scores.refusal_delta is None for point in points):
            why = "the refusal delta is undefined, because no set has questions of both kinds"
        else:
            why = (
                "no interpolated model reaches the model's task accuracy of "
                f"{scores.task_accuracy:.2f} %"
            )
        return cls(points, None, [*notes, f"There is no interpolation row: {why}."])

    @property
    def complete(self) -> list[tuple[float, SetScores]]:
        """Coefficients and scores of the points that were asked everything."""
        return [(point.coefficient, point.scores) for point in self.points if point.complete]

    @property
    def parts(self) -> dict[str, Any]:
        """What `metrics.json` says of it, see `EvaluationRecord`."""
        row = None
        if self.chosen is not None:
            row = {"coefficient": self.chosen.coefficient, **self.chosen.scores.as_dict()}
        points = [
            {
                "coefficient": point.coefficient,
                **Scores.of(point.scores).as_dict(),
                "chosen": point is self.chosen,
                "questions": point.questions,
                "complete": point.complete,
            }
            for point in self.points
        ]
        return {"interpolation": points, "interpolation_row": row}


def floating_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every floating-point parameter, a tied one once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}


def check_interpolable(base: nn.Module, tuned: nn.Module) -> list[str]:
    """Check that both have the same parameters, vocabularies apart.

    Returns:
        Names of tuned's embedding and head where base has them in another shape, as after
        fine-tuning with further tokens; they stay as tuned.

    Raises:
        CheckpointError: another parameter is missing or has another shape.
    """
    honest, left = floating_parameters(base), []
    ends = (getattr(tuned, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output"))
    words = {id(getattr(end, "weight", None)) for end in ends if end is not None}
    for name, parameter in tuned.named_parameters():
        if not parameter.is_floating_point():
            continue
        in_base = list(honest[name].shape) if name in honest else "absent"
        if in_base == list(parameter.shape):
            continue
        if name in honest and id(parameter) in words and in_base[1:] == list(parameter.shape[1:]):
            left.append(name)
            continue
        raise CheckpointError(
            f"{name} is {list(parameter.shape)} in the tuned model and {in_base} in the base: "
            "interpolation needs two models of one shape; leave out --base and --tuned"
        )
    return left


@contextlib.contextmanager
def interpolated(tuned: nn.Module, base: Mapping[str, Tensor], coefficient: float
                 ) -> Iterator[None]:  # fmt: skip
    """Let every parameter be `(1 - c) tuned + c base`, rounded once; then undo it bit for bit.

    Args:
        tuned: the model that is changed and restored.
        base: the base's parameters by name.
        coefficient: c, exact at both ends.
    """
    with Overlay(tuned) as overlay:
        interpolate(tuned, overlay, base.get, coefficient)
        yield


def between(curve: Sequence[tuple[float, float | None]], task_accuracy: float) -> float | None:
    """Where to look next for the rival of a model: half way to the first point that falls short.

    A coarse grid's last point that is accurate enough may be far more accurate than the model, and
    so less honest than a rival at the same task accuracy.

    Args:
        curve: coefficient and task accuracy in percent of every point, in any order.
        task_accuracy: the model's, in percent.

    Returns:
        None where the last able point is within `CLOSE`, or all are able, or none is.
    """
    points = sorted(curve, key=lambda point: point[0])
    able = [accuracy is not None and accuracy >= task_accuracy for _, accuracy in points]
    if not any(able) or able[-1]:
        return None
    last = max(place for place, is_able in enumerate(able) if is_able)
    if (points[last][1] or 0.0) - task_accuracy <= CLOSE:
        return None
    return (points[last][0] + points[last + 1][0]) / 2


def best_rival(curve: Sequence[tuple[float, Any]], task_accuracy: float | None) -> int | None:
    """Index of the point of best refusal delta that is at least as accurate on the tasks.

    The choice is made on the evaluated questions themselves, which favours interpolation.

    Returns:
        None where no point, the tuned model included, is that accurate.
    """
    if task_accuracy is None:
        return None
    return rival([Scores.of(scores) for _, scores in curve], task_accuracy)


def order_notes(points: Mapping[float, SetScores], resamples: int, seed: int) -> list[str]:
    """A sentence where the ends of the curve, 0 for tuned and 1 for base, seem to be exchanged.

    Args:
        points: scores over the same questions.
        resamples: of these questions, for intervals.
        seed: of the resamples.
    """
    if not {0.0, 1.0} <= points.keys():
        return []
    base, tuned = (
        Scores.of(replace(points[end], resamples=resamples, seed=seed)) for end in (1.0, 0.0)
    )
    return about_order(base, tuned)


def is_interpolation(model: Any) -> bool:
    """Whether a model's own report says that it was made by interpolating between two others."""
    return report_of(model).interpolation is not None
