"""What happened to one matrix, as it stands in the report."""

from dataclasses import asdict, dataclass
from typing import Any


def is_raised(used: float, asked: float) -> bool:
    """Whether a damping is more than the one that was asked for, rounding of float32 apart."""
    return used > asked * (1 + 1e-5)


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
        two_sided: of a kind that repairs whole matrices, what method.md (10) did to it; what is
            above from `damping` to `objective` is None then, and `restored` counts all neurons.
            Keys `task_weight`, `damping`, `condition` and `routes` (each of the output and the
            input axis), `restored_directions` and `restored_share` (None after a natural step),
            `honesty_left`, `task_lost`, `spectrum` (`edges`, `directions`, `energy`, `kept`).
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
    two_sided: dict[str, Any] | None = None

    @property
    def dampings(self) -> list[float]:
        """Damping used: none, of one axis, or of both."""
        return self._known("damping", self.damping)

    @property
    def conditions(self) -> list[float]:
        """Condition estimates, likewise."""
        return self._known("condition", self.condition)

    def raised(self, damping: float) -> bool:
        """Whether more damping was used than the one asked for, on any axis."""
        return self.damping_raised or any(is_raised(u, damping) for u in self._known("damping"))

    def _known(self, key: str, *single: float | None) -> list[float]:
        found = [*single, *(self.two_sided or {}).get(key, ())]
        return [value for value in found if value is not None]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `two_sided` only where there is one."""
        found = asdict(self)
        if self.two_sided is None:
            del found["two_sided"]
        return found
