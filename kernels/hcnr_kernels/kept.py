"""How much of a fine-tuning change a task weight keeps, along the eigenvalue spectrum."""

from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.blocks import Blocks, energies
from hcnr_kernels.modes import Modes
from hcnr_kernels.tiles import chunk_length, chunks

DECADES = tuple(place + 0.5 for place in range(-8, 8))
"""log10 of the edges between bins, which are centred on powers of ten: fixed, so that matrices and
runs can be compared, and none at 1, the eigenvalue of all directions that no token reaches."""


class Kept(NamedTuple):
    """What E of a task weight keeps of delta, by the eigenvalues `g_i a_j` of method.md (10).

    Energy is `Y_ij^2`, whose sum is `tr(G_h delta A_h delta^T)`: what delta changes on the honesty
    data. All tensors are float64 on the CPU.

    Attributes:
        edges: `[b - 1]` edges between the b bins of `g a`; the outer bins are open.
        directions: `[b]` directions of each bin; they sum to `out * in`.
        energy: `[b]` share of the energy of delta in each bin; they sum to one unless delta is 0.
        kept: `[b]` share of a bin's energy that E keeps, 0 for a bin without energy.
        restored: Effective number of restored directions, the sum of `1 / (1 + mu g a)`. As a share
            of `out * in` it compares with the share of restored neurons, R_IW.
        honesty_left: `tr(G_h E A_h E^T)` as a share of its value at the tuned weights.
        task_lost: `tr(G_t (E - delta) A_t (E - delta)^T)` as a share of its value at base.
    """

    edges: Tensor
    directions: Tensor
    energy: Tensor
    kept: Tensor
    restored: float
    honesty_left: float
    task_lost: float


def kept(blocks: Blocks, output: Modes, input: Modes, task_weight: float) -> Kept:
    """What is kept of the matrix that `blocks` hold.

    Args:
        blocks: Of delta.
        output: Directions of the output axis.
        input: Directions of the input axis.
        task_weight: mu.
    """
    energy = energies(blocks, output, input)
    tall, wide = (_spectrum(axis) for axis in (output, input))
    edges = torch.tensor(DECADES, dtype=torch.float64)
    sums = torch.zeros(3, len(edges) + 1, dtype=torch.float64)
    restored = task_all = task_lost = 0.0
    for some in chunks(len(energy), chunk_length(64 * energy.shape[1])):
        value = tall.value[some, None] * wide.value
        count = tall.directions[some, None] * wide.directions
        part = energy[some].cpu()
        given_back = 1 / (1 + task_weight * value)
        bins = torch.bucketize(value.log10(), edges).flatten()
        columns = (count, part, part * (1 - given_back).square())
        for place, column in enumerate(columns):
            sums[place] += torch.bincount(bins, column.flatten(), len(edges) + 1)
        restored += float((count * given_back).sum())
        task_all += float((value * part).sum())
        task_lost += float((value * part * given_back.square()).sum())
    directions, before, after = sums
    return Kept(
        edges=10**edges,
        directions=directions,
        energy=before / _or_one(before.sum()),
        kept=after / _or_one(before),
        restored=restored,
        honesty_left=float(after.sum() / _or_one(before.sum())),
        task_lost=task_lost / (task_all or 1.0),
    )


class _Spectrum(NamedTuple):
    value: Tensor
    directions: Tensor


def _spectrum(axis: Modes) -> _Spectrum:
    """Eigenvalues of (10) and how many directions have them, float64 on the CPU."""
    honesty, task, count = (part.double().cpu() for part in axis.shares)
    return _Spectrum(task / honesty, count)


def _or_one(total: Tensor) -> Tensor:
    return torch.where(total == 0, 1, total)
