"""What every task weight of method.md (10) costs the task, by the quadratic model.

With `X - Y = -Y / (1 + mu g a)` the quadratic form of the task curvature after a repair is

    tr(G_t (E - delta) A_t (E - delta)^T) = sum_ij g_i a_j Y_ij^2 / (1 + mu g_i a_j)^2

so it depends on mu through `g a` alone: the task energies `g a Y^2`, counted once by bins of
`log10(g a)`, give it for all mu at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.ops.spectral.coordinates import Blocks, energies
from hcnr_kernels.ops.spectral.modes import Modes

_LEAST, _MOST, _PER_DECADE = -12.0, 12.0, 8
BINS = int((_MOST - _LEAST) * _PER_DECADE) + 1


class TaskEnergy(NamedTuple):
    """Task energy of delta by eigenvalue; adds up over matrices.

    Attributes:
        energy: float64 `[BINS]` on the CPU: sums of `g a Y^2`, by bins of an eighth of a decade of
            `g a`, centred on `eigenvalues()`; what lies beyond the ends is counted in them.
    """

    energy: Tensor

    @staticmethod
    def eigenvalues() -> Tensor:
        """Centres of the bins, float64 `[BINS]`."""
        decades = torch.arange(BINS, dtype=torch.float64) / _PER_DECADE
        return 10 ** (_LEAST + decades)

    def lost(self, task_weight: float) -> float:
        """`sum g a Y^2 / (1 + mu g a)^2`: the total at mu = 0, where E = 0.

        Args:
            task_weight: mu >= 0.
        """
        return float((self.energy / (1 + task_weight * self.eigenvalues()).square()).sum())


def task_energy(blocks: Blocks, output: Modes, input: Modes) -> TaskEnergy:
    """Count the task energies of the matrix that `blocks` hold.

    Args:
        blocks: Of delta.
        output: Directions of the output axis.
        input: Directions of the input axis.
    """
    (output_honesty, output_task, _), (input_honesty, input_task, _) = output.shares, input.shares
    logarithm = (output_task / output_honesty).log10()[:, None] + (
        input_task / input_honesty
    ).log10()
    energy = energies(blocks, output, input).flatten() * (10 ** logarithm.double()).flatten()
    bins = ((logarithm.flatten() - _LEAST) * _PER_DECADE).round().clamp_(0, BINS - 1).long()
    return TaskEnergy(torch.bincount(bins, energy, BINS).cpu())
