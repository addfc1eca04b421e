"""Which candidate of a sweep to take, or whether to interpolate instead. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hcnr.front import ROUNDING, Gain, Scores, rival

Word = Literal["use", "do not use", "interpolate instead"]


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to take, and whether to take it at all.

    Attributes:
        index: place of the best among the candidates; None where none is better than tuned.
        reason: why, in a sentence.
        word: `use` it, `do not use` any, or `interpolate instead`.
        gain: its refusal delta over the tuned model's.
        coefficient: of the interpolation to take instead: 0 is tuned, 1 base.
    """

    index: int | None
    reason: str
    word: Word = "do not use"
    gain: Gain | None = None
    coefficient: float | None = None


def recommend(
    candidates: Sequence[Scores],
    tuned: Scores,
    max_task_drop: float,
    curve: Sequence[tuple[float, Scores]] = (),
) -> Recommendation:
    """Pick the best refusal delta among the candidates that keep the task.

    Only candidates whose refusal delta is above the tuned model's count. A candidate keeps the task
    if its accuracy is at most `max_task_drop` points under the tuned model's. If none does, the one
    that loses least is named, and not to be used. Ties go to F1, then to the task, then to the
    earlier candidate.

    Args:
        candidates: scores in their order.
        tuned: scores of the model before any repair.
        max_task_drop: points of task accuracy that may be lost.
        curve: plain interpolation: coefficients and scores. Where a point of it keeps as much of
            the task as the best candidate and has at least its delta, it is to be taken instead; so
            is the best point that keeps the task where no candidate does.
    """
    undefined = None
    if math.isnan(tuned.task_accuracy):
        undefined = "the task accuracy of the tuned model is not defined"
    elif not any(scores.defined for scores in candidates):
        undefined = "no candidate has defined scores"
    elif math.isnan(tuned.refusal_delta):
        undefined = "the refusal delta of the tuned model is not defined"
    if undefined:
        return Recommendation(None, f"nothing is recommended: {undefined}")
    limits = _Limits(tuned, max_task_drop)
    known = [index for index, scores in enumerate(candidates) if limits.gains(scores)]
    able = [index for index in known if limits.keeps(candidates[index])]
    if able:
        best = max(able, key=lambda i: candidates[i].merit)
        return _beside_the_curve(candidates, best, len(able), limits, curve)
    if known:
        best = min(known, key=lambda i: (limits.drop(candidates[i]), _negative(candidates[i])))
        gain = Gain.between(candidates[best], tuned)
        reason = (
            f"none of {len(candidates)} candidates has a refusal delta above the tuned model's "
            f"{tuned.refusal_delta:+.1f} and keeps task accuracy within {max_task_drop:g} points "
            f"of its {tuned.task_accuracy:.1f}; of those with such a delta this one loses least, "
            f"{limits.drop(candidates[best]):.1f} points, with {_figures(candidates[best])}, "
            f"against tuned {gain}{_doubt(gain)}"
        )
    else:
        best = gain = None
        reason = (
            f"nothing is recommended: no candidate has a refusal delta above the tuned model's "
            f"{tuned.refusal_delta:+.1f}, so none tells better what it does not know"
        )
    kept = [(c, p) for c, p in curve if limits.gains(p) and limits.keeps(p)]
    place = rival([point for _, point in kept], -math.inf)
    if place is None:
        return Recommendation(best, reason, gain=gain)
    return _against(best, reason, gain, tuned, *kept[place])


def _beside_the_curve(
    candidates: Sequence[Scores],
    best: int,
    able: int,
    limits: "_Limits",
    curve: Sequence[tuple[float, Scores]],
) -> Recommendation:
    """The best of those that keep the task, or what interpolation has at as much of the task."""
    chosen, tuned = candidates[best], limits.tuned
    gain, drop = Gain.between(chosen, tuned), limits.drop(chosen)
    change = f"loses {drop:.1f}" if drop >= 0 else f"gains {-drop:.1f}"
    reason = (
        f"the best refusal delta, {chosen.refusal_delta:+.1f}, of the {able} of {len(candidates)} "
        f"candidates whose delta is above the tuned model's {tuned.refusal_delta:+.1f} and whose "
        f"task accuracy is at most {limits.max_task_drop:g} points under its "
        f"{tuned.task_accuracy:.1f}; against tuned {gain}{_doubt(gain)}; this one has "
        f"{_figures(chosen)}, which {change}"
    )
    place = rival([point for _, point in curve], chosen.task_accuracy)
    if place is not None:
        coefficient, point = curve[place]
        if point.merit[0] >= chosen.merit[0]:
            return _against(best, reason, gain, tuned, coefficient, point)
        reason += f"; {_interpolation(coefficient)} has {_figures(point)}"
    return Recommendation(best, reason, "use" if gain.shown else "do not use", gain)


def _against(
    best: int | None,
    reason: str,
    gain: Gain | None,
    tuned: Scores,
    coefficient: float,
    point: Scores,
) -> Recommendation:
    """Interpolate instead of taking the candidate `best`, if that is shown to help."""
    better = Gain.between(point, tuned)
    reason += f"; {_interpolation(coefficient)} has {_figures(point)}, against tuned {better}"
    if not better.shown:
        return Recommendation(best, reason + _doubt(better), "do not use", gain)
    reason += ": interpolate instead"
    return Recommendation(best, reason, "interpolate instead", gain, coefficient)


@dataclass(frozen=True)
class _Limits:
    """What a model must do better than tuned, and what it may lose."""

    tuned: Scores
    max_task_drop: float

    def gains(self, scores: Scores) -> bool:
        return scores.defined and scores.refusal_delta > self.tuned.refusal_delta + ROUNDING

    def drop(self, scores: Scores) -> float:
        return self.tuned.task_accuracy - scores.task_accuracy

    def keeps(self, scores: Scores) -> bool:
        return self.drop(scores) <= self.max_task_drop + ROUNDING


def _negative(scores: Scores) -> list[float]:
    return [-figure for figure in scores.merit]


def _figures(scores: Scores) -> str:
    return (
        f"delta {scores.refusal_delta:+.1f}, F1 {scores.honesty_f1:.1f} and task accuracy "
        f"{scores.task_accuracy:.1f}"
    )


def _interpolation(coefficient: float) -> str:
    ends = {0.0: " (tuned itself)", 1.0: " (base itself)"}
    return f"plain interpolation with coefficient {coefficient:g}{ends.get(coefficient, '')}"


def _doubt(gain: Gain) -> str:
    """What must be said where a gain may be none."""
    return (
        "" if gain.shown else ", which does not exclude 0: ask more questions before believing it"
    )
