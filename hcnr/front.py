"""Honesty against the task: the Pareto front, and which candidate to take. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hcnr.errors import ConfigError

_OPTIONAL = "refusal_rate_answerable"
_ROUNDING = 1e-9
"""Points; accuracies are counts over counts, and their differences must not decide by rounding."""


@dataclass(frozen=True)
class Scores:
    """How one model did, in percent; NaN where a figure is not defined.

    Attributes:
        honesty_f1: macro F1 of refusing over the honesty sets.
        refusal_delta: refusal rate on unanswerable minus that on answerable questions, points.
        task_accuracy: mean accuracy over the task sets.
        refusal_rate_answerable: refusal rate on answerable questions; None where it is not told.
    """

    honesty_f1: float
    refusal_delta: float
    task_accuracy: float
    refusal_rate_answerable: float | None = None

    @classmethod
    def of(cls, found: Any) -> "Scores":
        """Read the figures from the attributes or the keys of what an evaluation returned.

        Raises:
            ConfigError: one is missing or no number; None counts as not defined.
        """
        values = {}
        for name in cls.__dataclass_fields__:
            value = found.get(name, "") if isinstance(found, Mapping) else getattr(found, name, "")
            if name == _OPTIONAL and value in ("", None):
                continue
            if value is None:
                value = math.nan
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
                raise ConfigError(
                    f"evaluate returned {found!r}, whose {name} is no finite number; return "
                    "hcnr.front.Scores, or anything with its attributes"
                )
            values[name] = float(value)
        return cls(**values)

    def as_dict(self) -> dict[str, float | None]:
        """The figures for JSON; None where not defined."""
        return {
            name: None if value is None or math.isnan(value) else value
            for name, value in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        }

    @property
    def defined(self) -> bool:
        """Whether the point can be compared with others."""
        return not (math.isnan(self.honesty_f1) or math.isnan(self.task_accuracy))


def pareto_front(points: Sequence[Scores]) -> list[bool]:
    """Mark the points that no other one dominates.

    A point dominates another if it is at least as good in both honesty F1 and task accuracy, and
    better in one. So equal points stand or fall together. A point with an undefined figure is not
    on the front and dominates nothing.

    Returns:
        One truth value per point, in their order.
    """
    places = [(p.honesty_f1, p.task_accuracy) for p in points if p.defined]
    return [
        p.defined
        and not any(
            f1 >= p.honesty_f1
            and task >= p.task_accuracy
            and (f1, task) != (p.honesty_f1, p.task_accuracy)
            for f1, task in places
        )
        for p in points
    ]


def rival(curve: Sequence[Scores], task_accuracy: float) -> int | None:
    """Which of the rival's models has the best honesty F1 at no lower a task accuracy.

    The choice is made on the evaluated items themselves, which favours the rival.

    Args:
        curve: the rival's models, the tuned model among them.
        task_accuracy: what is to be reached, in percent.

    Returns:
        Its place, the first of equals; None where no model of the curve is that accurate.
    """
    able = [i for i, p in enumerate(curve) if p.defined and p.task_accuracy >= task_accuracy]
    return max(able, key=lambda i: curve[i].honesty_f1, default=None)


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to take.

    Attributes:
        index: its place among the candidates; None when nothing can be recommended.
        reason: why, in a sentence.
    """

    index: int | None
    reason: str


def recommend(candidates: Sequence[Scores], tuned: Scores, max_task_drop: float) -> Recommendation:
    """Pick the best honesty F1 among the candidates that keep the task.

    Only candidates whose refusal delta is above the tuned model's count: one that refuses more of
    everything has a better F1 and knows no better. A candidate keeps the task if its accuracy is at
    most `max_task_drop` points under the tuned model's. If none does, the one that loses least is
    named. Ties go to the better other figure, then to the earlier candidate.

    Args:
        candidates: scores in their order.
        tuned: scores of the model before any repair.
        max_task_drop: points of task accuracy that may be lost.
    """
    if math.isnan(tuned.task_accuracy):
        return Recommendation(
            None, "nothing is recommended: the task accuracy of the tuned model is not defined"
        )
    known = [index for index, scores in enumerate(candidates) if scores.defined]
    if not known:
        return Recommendation(None, "nothing is recommended: no candidate has defined scores")
    before = tuned.refusal_delta
    if math.isnan(before):
        return Recommendation(
            None, "nothing is recommended: the refusal delta of the tuned model is not defined"
        )
    known = [i for i in known if candidates[i].refusal_delta > before + _ROUNDING]
    if not known:
        return Recommendation(
            None,
            f"nothing is recommended: no candidate has a refusal delta above the tuned model's "
            f"{before:+.1f}, so none tells better what it does not know",
        )

    def drop(index: int) -> float:
        return tuned.task_accuracy - candidates[index].task_accuracy

    able = [index for index in known if drop(index) <= max_task_drop + _ROUNDING]
    if not able:
        best = min(known, key=lambda i: (drop(i), -candidates[i].honesty_f1))
        return Recommendation(
            best,
            f"none of {len(candidates)} candidates has a refusal delta above the tuned model's "
            f"{before:+.1f} and keeps task accuracy within {max_task_drop:g} points of its "
            f"{tuned.task_accuracy:.1f}; of those with such a delta this one loses least, "
            f"{drop(best):.1f} points, with {_figures(candidates[best])}",
        )
    best = max(able, key=lambda i: (candidates[i].honesty_f1, candidates[i].task_accuracy))
    found = candidates[best].honesty_f1
    reason = (
        f"the best honesty F1, {found:.1f}, of the {len(able)} of {len(candidates)} candidates "
        f"whose refusal delta is above the tuned model's {before:+.1f} and whose task accuracy is "
        f"at most {max_task_drop:g} points under its {tuned.task_accuracy:.1f}; this one has "
        f"{_figures(candidates[best])}, which {_change(drop(best))}"
    )
    if found <= tuned.honesty_f1:
        reason += f"; but the tuned model has {tuned.honesty_f1:.1f} already, so nothing is gained"
    return Recommendation(best, reason)


def _figures(scores: Scores) -> str:
    return (
        f"F1 {scores.honesty_f1:.1f}, delta {scores.refusal_delta:+.1f} and task accuracy "
        f"{scores.task_accuracy:.1f}"
    )


def _change(drop: float) -> str:
    return f"loses {drop:.1f}" if drop >= 0 else f"gains {-drop:.1f}"
