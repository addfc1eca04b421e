"""How far fine-tuning moved each matrix, method.md (4), from one look at both of its weights."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hcnr.kinds import Axis
from hcnr.models.pair import is_untouched
from hcnr_kernels import perturbation

Refuse = Callable[[str], object]
"""Looks at both weights of a matrix and raises CheckpointError where one is not finite."""


def relative_perturbation(numerator: float, denominator: float) -> float:
    """`d_j = sqrt(numerator / denominator)` of method.md (4), with 0 / 0 = 0."""
    if numerator == 0:
        return 0.0
    return math.sqrt(numerator / denominator) if denominator > 0 else math.inf


class Changes:
    """How far fine-tuning moved the matrices, from one look at both weights of each.

    Attributes:
        untouched: matrices that it did not move.
    """

    def __init__(self, device: torch.device, axis: Axis) -> None:
        self._device = device
        self._axis: Axis = axis
        self._sums: dict[str, Tensor] = {}
        self.untouched: list[str] = []

    def add(self, name: str, base: Tensor, tuned: Tensor, masks: Tensor) -> None:
        """Look at a matrix; `masks` are bool `[voters, d']`."""
        base, tuned, masks = (one.to(self._device) for one in (base, tuned, masks))
        if is_untouched(base, tuned):
            self.untouched.append(name)
        # Of every neuron too: a sum of squares is finite only where all that is squared is.
        masks = torch.cat([masks, torch.ones_like(masks[:1])])
        self._sums[name] = torch.stack(perturbation(base, tuned, masks, axis=self._axis), 1)

    def __contains__(self, name: object) -> bool:
        return name in self._sums

    def check(self, name: str, refuse: Refuse | None) -> None:
        """Have the weights themselves looked at where sums overflowed; finite ones can do that."""
        if refuse is not None and not bool(self._sums[name][-1].isfinite().all()):
            refuse(name)

    def distances(
        self, matrices: Sequence[str], voters: int, refuse: Refuse | None
    ) -> list[dict[str, float]]:
        """`d_j` of every matrix for each voter; the sums leave a GPU in one piece."""
        values = torch.stack([self._sums[name] for name in matrices]).tolist() if matrices else []
        distances: list[dict[str, float]] = [{} for _ in range(voters)]
        for name, (*sums, everything) in zip(matrices, values, strict=True):
            if not all(map(math.isfinite, everything)):
                self.check(name, refuse)
            for by_matrix, (change, whole) in zip(distances, sums, strict=True):
                by_matrix[name] = relative_perturbation(change, whole)
        return distances
