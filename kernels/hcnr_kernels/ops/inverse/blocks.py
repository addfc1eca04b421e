"""Matrices as a *stack* `[B, m, b, b]`: B independent matrices, each m diagonal blocks of size b.

An ordinary matrix is one block. Shorter blocks are padded by zeros, which become unit pivots.
"""

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunks

COPY_ROWS = 256
"""Rows of a triangle copied at once: what is copied beyond the triangle is 6 % at d = 4096."""

COPY_ROWS_AT_ONCE = 2048
"""The same on a GPU, where a launch takes as long as 7 MB both ways: not measured yet."""


def all_finite(matrices: Tensor) -> Tensor:
    """Whether each matrix of `[B, r, c]` is free of NaN and infinity: `[B]` bool.

    Extremes carry NaN and infinity along and need no temporary: 25 times faster than `isfinite`.
    """
    rows = matrices.flatten(1) if matrices.is_contiguous() else matrices.amax(2)
    low = rows if matrices.is_contiguous() else matrices.amin(2)
    return rows.amax(1).isfinite() & low.amin(1).isfinite()


def mean_diagonal(matrices: Tensor) -> Tensor:
    """Mean of the diagonal of each matrix of `[B, d, d]`: `[B]`; the sum does not overflow."""
    return matrices.diagonal(dim1=-2, dim2=-1).mean(-1, dtype=torch.float64).to(matrices.dtype)


def split_blocks(matrices: Tensor, block_size: int | None) -> Tensor:
    """Diagonal blocks of `[B, d, d]` as a stack `[B, m, b, b]`, the last one padded by zeros.

    Without a block size this is a view.
    """
    batch, width, _ = matrices.shape
    if block_size is None or block_size >= width:
        return matrices.unsqueeze(1)
    whole = width // block_size
    edge = whole * block_size
    count = -(-width // block_size)
    stack = matrices.new_zeros(batch, count, block_size, block_size)
    tiled = matrices[:, :edge, :edge].unflatten(2, (whole, block_size))
    tiled = tiled.unflatten(1, (whole, block_size))
    stack[:, :whole] = tiled.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    if count > whole:
        rest = width - edge
        stack[:, whole, :rest, :rest] = matrices[:, edge:, edge:]
    return stack


def join_blocks(stack: Tensor, width: int) -> Tensor:
    """Inverse of `split_blocks`: `[B, width, width]`, zero outside the blocks."""
    batch, count, size, _ = stack.shape
    if count == 1:
        return stack.squeeze(1).contiguous()
    padded = stack.new_zeros(batch, count, size, count, size)
    padded.diagonal(dim1=1, dim2=3).copy_(stack.movedim(1, -1))
    padded = padded.view(batch, count * size, count * size)
    return padded[:, :width, :width].contiguous()


def split_neurons(values: Tensor, stack: Tensor, fill: bool) -> Tensor:
    """A bool per neuron `[B, d]` in the layout of a stack, `[B, m, b]`, padded by `fill`."""
    batch, count, size, _ = stack.shape
    padded = values.new_full((batch, count * size), fill)
    padded[:, : values.shape[1]] = values
    return padded.view(batch, count, size)


def damp_(blocks: Tensor, shift: Tensor, unit: Tensor) -> Tensor:
    """Add `shift [N]` to the diagonals of `blocks [N, b, b]`; one where `unit [N, b]`."""
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    diagonal.copy_((diagonal + shift[:, None]).masked_fill(unit, 1.0))
    return blocks


def copy_lower_(target: Tensor, matrix: Tensor) -> None:
    """Copy the lower triangle of `[d, d]`; above it `target` is left mostly as it was."""
    most = COPY_ROWS if matrix.device.type == "cpu" else COPY_ROWS_AT_ONCE
    for rows in chunks(matrix.shape[0], most):
        target[rows, : rows.stop] = matrix[rows, : rows.stop]
