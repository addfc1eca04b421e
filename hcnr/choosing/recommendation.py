"""The choice among several repaired models, by the rule of `hcnr.choosing.decision`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hcnr.choosing.decision import Decision, Evidence, Word, decide, decide_against, weigh
from hcnr.choosing.front import ROUNDING, Gain, Scores


@dataclass(frozen=True)
class Recommendation:
    """Which candidate of several is the best, and what to do.

    Attributes:
        index: its place among the candidates; None where none is better than tuned.
        decision: what to do: with it, or, where there is none, with all of them.
        why: why it is the best one; empty where there is none.
    """

    index: int | None
    decision: Decision
    why: str = ""

    @property
    def word(self) -> Word:
        """What to do, see `Decision`."""
        return self.decision.word

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        return "; ".join(filter(None, (self.why, self.decision.reason)))

    @property
    def gain(self) -> Gain | None:
        """The candidate's refusal delta over the tuned model's; None without a candidate."""
        return None if self.index is None else self.decision.evidence.gain

    @property
    def coefficient(self) -> float | None:
        """Of the interpolation to take instead: 0 is tuned, 1 base; None where none is."""
        other = self.decision.evidence.rival
        return other.coefficient if other and self.word == "interpolate instead" else None


def recommend(
    candidates: Sequence[Scores],
    tuned: Scores,
    max_accuracy_drop: float,
    curve: Sequence[tuple[float, Scores]] = (),
) -> Recommendation:
    """Pick the best refusal delta among the candidates that keep the task, and decide about it.

    Only candidates whose refusal delta is above the tuned model's count. A candidate keeps the task
    if its accuracy is at most `max_accuracy_drop` points under the tuned model's. If none does, the
    one that loses least is named. Ties go to F1, then to the task, then to the earlier candidate.

    Args:
        candidates: scores in their order.
        tuned: scores of the model before any repair.
        max_accuracy_drop: points of task accuracy that may be lost.
        curve: plain interpolation: coefficients and scores, see `weigh`.
    """
    if missing := _missing(candidates, tuned):
        reason = f"nothing is recommended: {missing}"
        return Recommendation(None, Decision("unclear", reason, Evidence(None, None)))
    known = [
        index
        for index, scores in enumerate(candidates)
        if scores.defined and scores.refusal_delta > tuned.refusal_delta + ROUNDING
    ]
    if not known:
        reason = (
            f"no candidate has a refusal delta above tuned's {tuned.refusal_delta:+.1f}, so none "
            "tells better what it does not know"
        )
        # Tuned stands for a repair that does nothing.
        return Recommendation(
            None, decide_against(weigh(tuned, tuned, curve, max_accuracy_drop), reason)
        )
    cases = {i: weigh(candidates[i], tuned, curve, max_accuracy_drop) for i in known}
    able = [index for index in known if cases[index].keeps]
    if able:
        best = max(able, key=lambda index: candidates[index].merit)
        why = (
            f"the best refusal delta of the {len(able)} of {len(candidates)} candidates that are "
            f"above tuned's {tuned.refusal_delta:+.1f} and keep the task"
        )
    else:
        best = min(
            known, key=lambda i: (cases[i].task_drop or 0.0, [-x for x in candidates[i].merit])
        )
        why = (
            f"none of {len(candidates)} candidates is above tuned's delta of "
            f"{tuned.refusal_delta:+.1f} and keeps the task; of those above it this one loses least"
        )
    chosen = candidates[best]
    why += f": delta {chosen.refusal_delta:+.1f}, task {chosen.task_accuracy:.1f}"
    if not math.isnan(chosen.honesty_f1):
        why += f" (F1 {chosen.honesty_f1:.1f})"
    return Recommendation(best, decide(cases[best]), why)


def _missing(candidates: Sequence[Scores], tuned: Scores) -> str | None:
    """Which number the choice lacks; None where it has all."""
    if math.isnan(tuned.task_accuracy):
        return "the task accuracy of the tuned model is not defined"
    if math.isnan(tuned.refusal_delta):
        return "the refusal delta of the tuned model is not defined"
    defined = any(scores.defined for scores in candidates)
    return None if defined else "no candidate has defined scores"
