"""How the settings of a method are chosen: by validation questions alone, then never again."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.trial.methods import FINE_TUNING, INTERPOLATION
from experiments.trial.metrics import Metrics, read_metrics
from hcnr.choosing.front import Scores, pareto_front

LEVELS = (95.0, 90.0, 75.0)
"""Percent of the fine-tuning's gain in likelihood that a candidate must keep."""

REAL_LEVELS = (95.0, 90.0)
"""The same of pretrained models, whose candidates cost minutes to ask."""

BASELINES = {"interpolation": (INTERPOLATION,), "fine-tuning": FINE_TUNING}
"""What every method is compared with -> the methods whose candidates it is chosen from."""

_ROUNDING = 1e-9
"""Points; rates are counts over counts, and their differences must not decide by rounding."""
_DIGITS = 9


@dataclasses.dataclass(frozen=True)
class Scored:
    """A candidate with its metrics on the validation questions.

    Attributes:
        settings: What it was made with.
        validation: How it did.
        seconds: What it cost to make alone.
    """

    settings: Mapping[str, Any]
    validation: Metrics
    seconds: float

    @classmethod
    def tuned(cls, validation: Metrics) -> "Scored":
        """The tuned model as it is: what a baseline selects that cannot keep enough otherwise."""
        return cls({"made": "tuned"}, validation, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "settings": dict(self.settings),
            "validation": self.validation.as_dict(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Scored":
        """What `as_dict` wrote."""
        return cls(content["settings"], read_metrics(content["validation"]), content["seconds"])


@dataclasses.dataclass(frozen=True)
class Selected:
    """The candidate that a method selects at one level, with its one look at the test questions.

    Attributes:
        candidate: What was selected, with its metrics on the validation questions.
        test: Its metrics on questions that chose nothing.
        baselines: Baseline -> its selection that keeps at least as much as this one on the
            validation questions; a baseline's own methods have none of that name.
    """

    candidate: Scored
    test: Metrics
    baselines: dict[str, "Selected"] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.candidate.as_dict(),
            "evaluated": self.test.as_dict(),
            "rivals": {name: selected.as_dict() for name, selected in self.baselines.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Selected":
        """What `as_dict` wrote."""
        return cls(
            Scored.from_dict(content),
            read_metrics(content["evaluated"]),
            {name: cls.from_dict(selected) for name, selected in content["rivals"].items()},
        )


def select(candidates: Sequence[Scored], tuned: Metrics, level: float) -> Scored | None:
    """The candidate to select at a level of retention.

    Of those that keep that much of the task and tell better than the tuned model what they do not
    know, the one with the best refusal delta; ties go to the better F1, then to the better
    retention, then to the earlier one. F1 alone does not do: always refusing has a higher F1 than
    many a repair (66.7 where half of the questions are unanswerable), so the best F1 may belong to
    a model that refuses half of what it knows. Refusing more of everything leaves the delta as it
    is.

    Args:
        candidates: The method's, with metrics on the validation questions.
        tuned: The tuned model's metrics on the same questions.
        level: Least retention, in percent.

    Returns:
        None where no candidate qualifies.
    """
    able = [
        one
        for one in candidates
        if one.validation.retention >= level - _ROUNDING
        and one.validation.refusal_delta > tuned.refusal_delta + _ROUNDING
    ]
    return max(able, key=_merit, default=None)


def select_baseline(own: Metrics, candidates: Sequence[Scored], tuned: Scored) -> Scored | None:
    """What a baseline selects against a chosen candidate: its best that keeps at least as much.

    Levels alone would not do: of two methods chosen at 90 %, one may keep 97 % and one 91 %, for
    want of settings in between.

    Args:
        own: The chosen candidate's metrics on the validation questions.
        candidates: The baseline's.
        tuned: The tuned model, which is the baseline where no candidate of the baseline qualifies.

    Returns:
        None where not even the tuned model keeps as much.
    """
    selected = select(candidates, tuned.validation, own.retention)
    if selected is None and tuned.validation.retention >= own.retention - _ROUNDING:
        return tuned
    return selected


def on_front(candidates: Sequence[Scored]) -> list[bool]:
    """Which candidates no other one beats in both refusal delta and retention, by validation."""
    # The front compares the first and the last of its figures; here the first is the delta.
    return pareto_front(
        [
            Scores(
                one.validation.refusal_delta, one.validation.refusal_delta, one.validation.retention
            )
            for one in candidates
        ]
    )


def _merit(scored: Scored) -> tuple[float, float, float]:
    metrics = scored.validation
    return round(metrics.refusal_delta, _DIGITS), round(metrics.f1, _DIGITS), metrics.retention
