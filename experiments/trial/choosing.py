"""How the settings of a way are chosen: by validation questions alone, then never again."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.trial.arena import Marks
from experiments.trial.ways import FINE_TUNING, INTERPOLATION
from hcnr.choosing.front import Scores, pareto_front

LEVELS = (95.0, 90.0, 75.0)
"""Percent of the fine-tuning's gain in likelihood that a candidate must keep."""

REAL_LEVELS = (95.0, 90.0)
"""The same of pretrained models, whose candidates cost minutes to ask."""

RIVALS = {"interpolation": (INTERPOLATION,), "fine-tuning": FINE_TUNING}
"""What every way is compared with -> the ways whose candidates it is chosen from."""

_ROUNDING = 1e-9
"""Points; rates are counts over counts, and their differences must not decide by rounding."""
_DIGITS = 9


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

    @classmethod
    def tuned(cls, validation: Marks) -> "Judged":
        """The tuned model as it is: what a rival sends in that cannot keep enough otherwise."""
        return cls({"made": "tuned"}, validation, 0.0)

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
        rivals: Rival -> its entry that keeps at least as much as this one on the validation
            questions; a rival's own ways have none of that name.
    """

    chosen: Judged
    evaluated: Marks
    rivals: dict[str, "Entry"] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.chosen.as_dict(),
            "evaluated": self.evaluated.as_dict(),
            "rivals": {name: entry.as_dict() for name, entry in self.rivals.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Entry":
        """What `as_dict` wrote."""
        return cls(
            Judged.from_dict(found),
            read_marks(found["evaluated"]),
            {name: cls.from_dict(entry) for name, entry in found["rivals"].items()},
        )


def choose(candidates: Sequence[Judged], tuned: Marks, level: float) -> Judged | None:
    """The candidate to send in at a level of retention.

    Of those that keep that much of the task and tell better than the tuned model what they do not
    know, the one with the best refusal delta; ties go to the better F1, then to the better
    retention, then to the earlier one. F1 alone does not do: always refusing has a higher F1 than
    many a repair (66.7 where half of the questions are unanswerable), so the best F1 may belong to
    a model that refuses half of what it knows. Refusing more of everything leaves the delta as it
    is.

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
    return max(able, key=_merit, default=None)


def choose_rival(own: Marks, candidates: Sequence[Judged], tuned: Judged) -> Judged | None:
    """What a rival sends in against a chosen candidate: its best that keeps at least as much.

    Levels alone would not do: of two ways chosen at 90 %, one may keep 97 % and one 91 %, for want
    of settings in between.

    Args:
        own: The chosen candidate's marks on the validation questions.
        candidates: The rival's.
        tuned: The tuned model, which is the rival where no candidate of the rival qualifies.

    Returns:
        None where not even the tuned model keeps as much.
    """
    found = choose(candidates, tuned.validation, own.retention)
    if found is None and tuned.validation.retention >= own.retention - _ROUNDING:
        return tuned
    return found


def on_front(candidates: Sequence[Judged]) -> list[bool]:
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


def read_marks(found: Mapping[str, Any]) -> Marks:
    """Marks from JSON, where an undefined figure is null."""
    names = [field.name for field in dataclasses.fields(Marks)]
    values: dict[str, Any] = {
        name: math.nan if found[name] is None else found[name]
        for name in names
        # Trials before the pretrained models kept no single answers.
        if name in found or name != "refused"
    }
    return Marks(**values)


def _merit(one: Judged) -> tuple[float, float, float]:
    marks = one.validation
    return round(marks.refusal_delta, _DIGITS), round(marks.f1, _DIGITS), marks.retention
