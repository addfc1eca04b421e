"""How the settings of a way are chosen: by validation questions alone, then never again."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hcnr.front import Scores, pareto_front
from hcnr.lab.arena import Marks

LEVELS = (95.0, 90.0, 75.0)
"""Percent of the fine-tuning's gain in likelihood that a candidate must keep."""

_ROUNDING = 1e-9
"""Points; rates are counts over counts, and their differences must not decide by rounding."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A candidate with its marks on the validation questions.

    Attributes:
        settings: What it was made with.
        validation: How it did.
        seconds: What it cost to make alone.
    """

    settings: Mapping[str, Any]
    validation: Marks
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "settings": dict(self.settings),
            "validation": self.validation.as_dict(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Judged":
        """What `as_dict` wrote."""
        return cls(found["settings"], read_marks(found["validation"]), found["seconds"])


@dataclasses.dataclass(frozen=True)
class Entry:
    """The candidate that a way sends in at one level, with its one look at the evaluated questions.

    Attributes:
        chosen: The candidate, as it was chosen.
        evaluated: Its marks on questions that chose nothing.
    """

    chosen: Judged
    evaluated: Marks

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.chosen.as_dict(), "evaluated": self.evaluated.as_dict()}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Entry":
        """What `as_dict` wrote."""
        return cls(Judged.from_dict(found), read_marks(found["evaluated"]))


def choose(candidates: Sequence[Judged], tuned: Marks, level: float) -> Judged | None:
    """The candidate to send in at a level of retention.

    Of those that keep that much of the task and tell better than the tuned model what they do not
    know, the one with the best F1; ties go to the better retention, then to the earlier one. A
    candidate that only refuses more of everything has a better F1 and no better refusal delta.

    Args:
        candidates: The way's, with marks on the validation questions.
        tuned: The tuned model's marks on the same questions.
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
    return max(able, key=lambda one: (one.validation.f1, one.validation.retention), default=None)


def on_front(candidates: Sequence[Judged]) -> list[bool]:
    """Which candidates no other one beats in both F1 and retention, on the validation questions."""
    return pareto_front(
        [
            Scores(one.validation.f1, one.validation.refusal_delta, one.validation.retention)
            for one in candidates
        ]
    )


def read_marks(found: Mapping[str, Any]) -> Marks:
    """Marks from JSON, where an undefined figure is null."""
    names = [field.name for field in dataclasses.fields(Marks)]
    values: dict[str, Any] = {
        name: math.nan if found[name] is None else found[name] for name in names
    }
    return Marks(**values)
