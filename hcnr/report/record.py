"""What happened to one matrix, as it stands in the report."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class MatrixRecord:
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
