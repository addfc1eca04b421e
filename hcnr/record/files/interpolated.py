"""Plain interpolation as a repair, as a report holds it."""

from hcnr.record.files.schema import Schema
from hcnr.record.files.two_sided import MaxTaskDrop
from hcnr.record.numbers import short


class CoefficientTrial(Schema):
    """A coefficient that the search tried.

    Attributes:
        coefficient: c.
        retention: what is kept of the likelihood that fine-tuning gained, percent.
        kept: whether that is enough.
    """

    coefficient: float
    retention: float | None = None
    kept: bool = False


class Interpolated(Schema):
    """An interpolation.

    Attributes:
        coefficient: c that was used, 0 tuned and 1 base.
        max_task_drop_percent: percent of the likelihood gain that the search might give up.
        search: coefficients in the order in which they were tried; empty unless searched.
        held_back: task samples that the search was judged on.
        held_back_sha256: of their tokens.
        tensors: that were mixed.
        left: names of those that stayed as tuned.
    """

    coefficient: float
    max_task_drop_percent: MaxTaskDrop = None
    search: list[CoefficientTrial] = []
    held_back: int | None = None
    held_back_sha256: str | None = None
    tensors: int | None = None
    left: list[str] = []

    @property
    def name(self) -> str:
        """`interpolated with coefficient 0.14`."""
        return f"interpolated with coefficient {short(self.coefficient)}"
