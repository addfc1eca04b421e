"""How much of a fine-tuning change a task weight keeps, along the eigenvalue spectrum."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks
from hcnr_kernels.ops.spectral.coordinates import Blocks, energies
from hcnr_kernels.ops.spectral.modes import Modes

DECADES = tuple(place + 0.5 for place in range(-8, 8))
"""log10 of the edges between bins, which are centred on powers of ten: fixed, so that matrices and
runs can be compared, and none at 1, the eigenvalue of all directions that no token reaches."""


class Kept(NamedTuple):
    """What E keeps of delta, by the eigenvalues `g_i a_j` of method.md (10).

    Energy is `Y_ij^2`, whose sum is `tr(G_h delta A_h delta^T)`: what delta changes on the honesty
    data. All tensors are float64 on the CPU.

    Attributes:
        edges: `[b - 1]` edges between the b bins of `g a`; the outer bins are open.
        directions: `[b]` directions of each bin; they sum to `out * in`.
        energy: `[b]` share of the energy of delta in each bin; they sum to one unless delta is 0.
        kept: `[b]` share of a bin's energy that E keeps, 0 for a bin without energy.
        restored: Effective number of restored directions, the sum of `1 / (1 + mu g a)`. As a share
            of `out * in` it compares with the share of restored neurons, R_IW. NaN for a deviation
            that is not of (10).
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
    count = _Count(output, input)
    energy = energies(blocks, output, input)
    for rows in count.chunks:
        given_back = 1 / (1 + task_weight * count.values(rows))
        part = energy[rows].cpu()
        count.add(rows, part, part * (1 - given_back).square(), part * given_back.square())
        count.restored += float((count.directions(rows) * given_back).sum())
    return count.summary()


def compared(blocks: Blocks, others: Blocks, output: Modes, input: Modes) -> Kept:
    """What another deviation, of whatever origin, keeps of the matrix that `blocks` hold.

    The share of a bin may exceed one, and there is no number of restored directions: it is NaN.

    Args:
        blocks: Of delta.
        others: Of the other deviation.
        output: Directions of the output axis.
        input: Directions of the input axis.
    """
    count = _Count(output, input)
    lost = Blocks(
        blocks.both - others.both,
        *(
            None if ours is None or theirs is None else ours - theirs
            for ours, theirs in zip(blocks[1:], others[1:], strict=True)
        ),
    )
    parts = [energies(of, output, input) for of in (blocks, others, lost)]
    for rows in count.chunks:
        count.add(rows, *(part[rows].cpu() for part in parts))
    count.restored = math.nan
    return count.summary()


class _Count:
    """Sums over all pairs of directions, by bin and in all."""

    def __init__(self, output: Modes, input: Modes) -> None:
        self._output, self._input = _spectrum(output), _spectrum(input)
        self._edges = torch.tensor(DECADES, dtype=torch.float64)
        # Directions, energy before and after.
        self._sums = torch.zeros(3, len(DECADES) + 1, dtype=torch.float64)
        self._task = self._lost = self.restored = 0.0
        rows = chunk_length(64 * len(self._input.value))
        self.chunks = chunks(len(self._output.value), rows)

    def values(self, rows: slice) -> Tensor:
        """`g_i a_j` of some output directions with all input directions."""
        return self._output.value[rows, None] * self._input.value

    def directions(self, rows: slice) -> Tensor:
        """How many directions each of them stands for."""
        return self._output.directions[rows, None] * self._input.directions

    def add(self, rows: slice, before: Tensor, after: Tensor, lost: Tensor) -> None:
        """Count energies `Y^2` of delta, of E, and of their difference."""
        values = self.values(rows)
        bins = torch.bucketize(values.log10(), self._edges).flatten()
        for index, column in enumerate((self.directions(rows), before, after)):
            self._sums[index] += torch.bincount(bins, column.flatten(), len(DECADES) + 1)
        self._task += float((values * before).sum())
        self._lost += float((values * lost).sum())

    def summary(self) -> Kept:
        """Everything counted so far, as shares."""
        directions, before, after = self._sums
        return Kept(
            edges=10**self._edges,
            directions=directions,
            energy=before / _or_one(before.sum()),
            kept=after / _or_one(before),
            restored=self.restored,
            honesty_left=float(after.sum() / _or_one(before.sum())),
            task_lost=self._lost / (self._task or 1.0),
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
