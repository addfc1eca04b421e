"""What happened to one matrix, as it stands in the report."""

from typing import Any

from hcnr.record.files.schema import Schema
from hcnr.record.files.two_sided import WholeMatrixRecord, is_raised
from hcnr.record.numbers import finite


class MatrixRecord(Schema):
    """What happened to one selected matrix.

    Attributes:
        name: the matrix.
        neurons: neurons along the axis, d'.
        restored: how many of them were restored.
        parameters: weights restored.
        perturbation: `d_j` of method.md (4).
        half_overlap: agreement of two halves of the samples on the candidates, or None.
        damping: damping actually used, a share of the mean diagonal; None without curvature.
        damping_raised: whether that is more than was asked for.
        condition: condition estimate of the damped curvature.
        dead: neurons whose curvature diagonal is zero.
        rank_deficient: fewer tokens (input axis) or response tokens (output axis) than neurons, so
            that damping may be all that makes the curvature invertible.
        objective_none: `tr(E H E^T)` on the honesty data with E_h = 0.
        objective: the same with the chosen compensation.
        device: where the compensation was computed.
        two_sided: of a kind that repairs whole matrices, what method.md (10) did to it; what is
            above from `damping` to `objective` is None then, and `restored` counts all neurons.
            Left out for other kinds.
    """

    name: str
    neurons: int
    restored: int
    parameters: int
    perturbation: float
    half_overlap: float | None = None
    damping: float | None = None
    damping_raised: bool = False
    condition: float | None = None
    dead: int | None = None
    rank_deficient: bool | None = None
    objective_none: float | None = None
    objective: float | None = None
    device: str = "cpu"
    two_sided: WholeMatrixRecord | None = None

    def model_post_init(self, _context: Any, /) -> None:
        """Let a number that is not known be written as null."""
        self.model_fields_set.update(type(self).model_fields.keys() - {"two_sided"})

    @property
    def dampings(self) -> list[float]:
        """Damping used: none, of one axis, or of both."""
        both = self.two_sided.damping if self.two_sided else ()
        return [value for value in (self.damping, *both) if value is not None]

    @property
    def conditions(self) -> list[float]:
        """Condition estimates, likewise."""
        both = self.two_sided.condition if self.two_sided else ()
        return [value for value in (self.condition, *both) if value is not None]

    @property
    def objective_ratio(self) -> float | None:
        """The honesty objective with compensation as a share of that without."""
        without, compensated = finite(self.objective_none), finite(self.objective)
        return None if not without or compensated is None else compensated / without

    def raised(self, damping: float) -> bool:
        """Whether more damping was used than the one asked for, on any axis."""
        both = self.two_sided.damping if self.two_sided else ()
        return self.damping_raised or any(is_raised(used, damping) for used in both)
