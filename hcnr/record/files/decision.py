"""What was decided about a repaired model and what it rests on, as files have it."""

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from hcnr.choosing.decision import Decision, Evidence, Rival
from hcnr.choosing.front import Gain
from hcnr.config.shared import MAX_ACCURACY_DROP
from hcnr.record.files.schema import Interval, Schema

if TYPE_CHECKING:
    from typing_extensions import Self

AccuracyDrop = Annotated[
    float, Field(validation_alias=AliasChoices("max_accuracy_drop", "max_task_drop"))
]
"""Points that the task may lose, by its name or by the former one."""


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


class Difference(Schema):
    """One number minus another, in points, with the paired 95 % interval."""

    value: Annotated[float | None, BeforeValidator(_defined)] = None
    ci95: Interval | None = None

    @property
    def gain(self) -> Gain | None:
        """The same as `hcnr.choosing` takes it; None where it is not defined."""
        return None if self.value is None else Gain(self.value, self.ci95)


class RivalDifference(Schema):
    """What was weighed of plain interpolation, see `hcnr.choosing.decision.Rival`."""

    coefficient: float
    gain: Difference | None = None
    lead: Difference


class Recommended(Schema):
    """What to do, and what it rests on, see `hcnr.choosing.decision.Decision`."""

    word: str
    reason: str
    gain: Difference | None = None
    task_drop: float | None = None
    max_accuracy_drop: AccuracyDrop = MAX_ACCURACY_DROP
    interpolation: RivalDifference | None = None
    task_step: float | None = None
    doubt: str | None = None

    @classmethod
    def by(cls, decision: Decision, **parts: Any) -> "Self":
        """A decision as it is written; `parts` win over what it has."""
        values = {**vars(decision), **vars(decision.evidence)}
        return cls.model_validate({**values, "interpolation": values["rival"], **parts})

    @property
    def evidence(self) -> Evidence:
        """What was weighed."""
        other, rival = self.interpolation, None
        if other is not None and (lead := other.lead.gain) is not None:
            rival = Rival(other.coefficient, other.gain and other.gain.gain, lead)
        return Evidence(
            self.gain and self.gain.gain, self.task_drop, self.max_accuracy_drop, rival,
            self.task_step, self.doubt,
        )  # fmt: skip
