"""The restored and the task neurons of a stack's blocks, padded to equal counts."""

from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.ops.inverse.blocks import split_neurons


class Side(NamedTuple):
    """Neurons of one side: `within [m, c]` their place in the block, `valid` false for padding."""

    within: Tensor
    valid: Tensor

    def columns_of(self, lines: Tensor, size: int) -> Tensor:
        """Columns of `lines [r, d]` on this side, per block: `[m, r, c]`, laid out as `lines` is.

        A padded place holds some column; the matrix it is multiplied by is zero there.
        """
        if self.within.shape[0] == 1:
            if lines.stride(1) == 1:
                return lines.index_select(1, self.within[0])[None]
            return lines.T.index_select(0, self.within[0]).T[None]
        start = torch.arange(self.within.shape[0], device=lines.device)[:, None] * size
        index = (start + self.within).clamp(max=lines.shape[1] - 1)
        return lines[:, index].movedim(0, 1)

    def scatter_(self, lines: Tensor, size: int, values: Tensor) -> None:
        """Write `values [m, r, c]` back to the columns of `lines [r, d]`."""
        if self.within.shape[0] == 1:
            lines.index_copy_(1, self.within[0], values[0])
            return
        start = torch.arange(self.within.shape[0], device=lines.device)[:, None] * size
        lines[:, (start + self.within)[self.valid]] = values.movedim(1, 0)[:, self.valid]


def multiply(columns: Tensor, weights: Tensor) -> Tensor:
    """`columns [m, r, k] @ weights [m, k, c]`, laid out as `columns` is."""
    if columns.stride(-1) == 1:
        return columns @ weights
    return (weights.mT @ columns.mT).mT


def sides(mask: Tensor, stack: Tensor) -> tuple[Side, Side]:
    """The restored and the task neurons of `mask [d]`."""
    restored = split_neurons(mask[None], stack[None], fill=False)[0]
    task = split_neurons(~mask[None], stack[None], fill=False)[0]
    return _side(restored), _side(task)


def _side(member: Tensor) -> Side:
    counts = member.sum(1)
    most = int(counts.max())
    order = member.logical_not().byte().argsort(dim=1, stable=True)[:, :most]
    valid = torch.arange(most, device=member.device) < counts[:, None]
    return Side(order, valid)


def submatrix(stack: Tensor, rows: Side, columns: Side) -> Tensor:
    """`stack[rows, columns]` of every block: `[m, r, c]`, zero where padded."""
    block = torch.arange(stack.shape[0], device=stack.device)[:, None, None]
    part = stack[block, rows.within[:, :, None], columns.within[:, None, :]]
    if not bool(rows.valid.all() & columns.valid.all()):
        part.masked_fill_(~(rows.valid[:, :, None] & columns.valid[:, None, :]), 0)
    return part
