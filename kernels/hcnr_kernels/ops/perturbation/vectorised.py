"""The perturbation norms by the compiled extension, else by torch in chunks that stay cached."""

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks
from hcnr_kernels.native import sums_of_squares

CACHED_BYTES = 4 * 2**20
"""Of the temporaries of a chunk: five times as fast as 64 MiB of them in float64 (4608 by 1536)."""


def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """The two sums of squares of method.md (4), `(||(W0 - W1) M||^2, ||W0 M||^2)`, of every mask.

    Differences, squares and their sums along a row or column of a chunk are taken in float32; those
    are added in float64, and only then masked, so that both weights are read once and columns in
    storage order.
    """
    masks = mask if mask.dim() == 2 else mask[None]
    sums = sums_of_squares(base, tuned, axis)
    chosen = masks
    if sums is None:
        sums, lines = _sums(base, tuned, masks, axis)
        chosen = masks if lines is None else masks[:, lines]
    # Replaced, not multiplied: NaN * 0 is NaN.
    totals = torch.where(chosen, sums[:, None], 0.0).sum(-1).float()
    change, base_squares = totals.view(2, *mask.shape[:-1])
    return change.clone(), base_squares.clone()


def _sums(base: Tensor, tuned: Tensor, masks: Tensor, axis: str) -> tuple[Tensor, Tensor | None]:
    """Both sums of every neuron, float64 `[2, n]`, and which neurons those are; None for all."""
    by_row = axis == "output"
    lines = None
    if by_row and not (candidates := masks.any(0)).all():
        lines = candidates.nonzero().squeeze(1)
    dtype = torch.promote_types(base.dtype, torch.float32)
    rows = base.shape[0] if lines is None else len(lines)
    sums = base.new_zeros((2, rows if by_row else base.shape[1]), dtype=torch.float64)
    # Rows that were picked out, or converted, are our own, and their memory serves twice.
    owned = lines is not None or dtype not in (base.dtype, tuned.dtype)
    for chunk in chunks(rows, chunk_length(12 * base.shape[1], budget=CACHED_BYTES)):
        original, change = (_rows(each, lines, chunk).to(dtype) for each in (base, tuned))
        change = torch.sub(original, change, out=change if owned else None)
        for total, each in zip(sums, (change, original), strict=True):
            squares = each.square_() if owned else each.square()
            if by_row:
                total[chunk] = squares.sum(1).double()
            else:
                total += squares.sum(0)
    return sums, lines


def _rows(weight: Tensor, lines: Tensor | None, chunk: slice) -> Tensor:
    """A chunk's rows: a copy of those picked out, or a view."""
    return weight[chunk] if lines is None else weight.index_select(0, lines[chunk])
