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
        part = count.sorted(energy[rows])
        lost = part * given_back.square()
        count.restore(rows, given_back)
        count.add(rows, part, part * (1 - given_back).square_(), lost)
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
        count.add(rows, *(count.sorted(part[rows]) for part in parts))
    return count.summary()._replace(restored=math.nan)


class _Count:
    """Sums over all pairs of directions, by bin and in all, where the directions are.

    Input directions are taken in the order of their eigenvalues, so that the pairs of an output
    direction that fall into a bin lie side by side: where a bin ends is looked up, and no pair is
    told its own.
    """

    def __init__(self, output: Modes, input: Modes) -> None:
        self._output, wide = _spectrum(output), _spectrum(input)
        self._order = wide.value.argsort()
        self._input = _Spectrum(*(part[self._order] for part in wide))
        self._edges = wide.value.new_tensor(DECADES)
        # Directions up to each input direction: whole numbers, so differences of them are exact.
        self._directions = torch.cat([wide.value.new_zeros(1), self._input.directions.cumsum(0)])
        # Directions, energy before and after.
        self._sums = wide.value.new_zeros(3, len(DECADES) + 1)
        # Energy of delta and of what is lost as the task sees it, and directions given back.
        self._totals = wide.value.new_zeros(3)
        rows = chunk_length(64 * len(self._input.value))
        self.chunks = chunks(len(self._output.value), rows)

    def values(self, rows: slice) -> Tensor:
        """`g_i a_j` of some output directions with all input directions, these in order."""
        return self._output.value[rows, None] * self._input.value

    def sorted(self, energy: Tensor) -> Tensor:
        """Energies of some output directions, the input directions in order."""
        return energy.index_select(1, self._order)

    def restore(self, rows: slice, given_back: Tensor) -> None:
        """Count directions by the share of each pair that is restored."""
        self._totals[2] += self._output.directions[rows] @ (given_back @ self._input.directions)

    def add(self, rows: slice, before: Tensor, after: Tensor, lost: Tensor) -> None:
        """Count energies `Y^2` of delta, of E, and of their difference."""
        values, directions = self._output.value[rows], self._output.directions[rows]
        below = self._edges - values.log10()[:, None]
        ends = torch.searchsorted(self._input.value.log10(), below, right=True)
        ends = torch.nn.functional.pad(ends, (1, 1))
        ends[:, -1] = before.shape[1]
        self._sums[0] += directions @ self._directions[ends].diff(dim=1)
        lengths = ends.diff(dim=1).flatten()
        for index, energy in enumerate((before, after), start=1):
            bins = torch.segment_reduce(energy.flatten(), "sum", lengths=lengths, unsafe=True)
            self._sums[index] += bins.view(-1, self._sums.shape[1]).sum(0)
        for index, energy in enumerate((before, lost)):
            self._totals[index] += values @ (energy @ self._input.value)

    def summary(self) -> Kept:
        """Everything counted so far, as shares."""
        directions, before, after = self._sums.cpu()
        task, lost, restored = self._totals.tolist()
        return Kept(
            edges=10 ** self._edges.cpu(),
            directions=directions,
            energy=before / _or_one(before.sum()),
            kept=after / _or_one(before),
            restored=restored,
            honesty_left=float(after.sum() / _or_one(before.sum())),
            task_lost=lost / (task or 1.0),
        )


class _Spectrum(NamedTuple):
    value: Tensor
    directions: Tensor


def _spectrum(axis: Modes) -> _Spectrum:
    """Eigenvalues of (10) and how many directions have them, float64."""
    honesty, task, count = (part.double() for part in axis.shares)
    return _Spectrum(task / honesty, count)


def _or_one(total: Tensor) -> Tensor:
    return torch.where(total == 0, 1, total)
