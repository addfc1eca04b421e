"""Condition numbers in the 1-norm: exact norms, and an estimate where there is no inverse."""

from collections.abc import Callable

import torch
from torch import Tensor

from hcnr_kernels.chunks import TEMPORARY_BYTES, chunk_length, chunks

CACHED_BYTES = 2**19
"""Absolute values summed at once on a CPU: ten times faster than in pieces that leave the cache."""


def one_norms(blocks: Tensor, unit: Tensor, shift: Tensor | None = None) -> Tensor:
    """1-norm `[N]` of symmetric `blocks [N, b, b] + shift [N] * I` over neurons not `unit [N, b]`.

    A dead neuron's row and column are zero next to the diagonal, so leaving its row out is enough.
    """
    count, size, _ = blocks.shape
    budget = CACHED_BYTES if blocks.device.type == "cpu" else TEMPORARY_BYTES
    row_bytes = size * blocks.element_size()
    if count * size * row_bytes <= budget:
        sums = blocks.abs().sum(-1)
    elif size * row_bytes <= budget:
        sums = blocks.new_empty(count, size)
        for some in chunks(count, chunk_length(size * row_bytes, budget=budget)):
            torch.sum(blocks[some].abs(), -1, out=sums[some])
    else:
        sums = blocks.new_empty(count, size)
        for place in range(count):
            for rows in chunks(size, chunk_length(row_bytes, budget=budget)):
                torch.sum(blocks[place, rows].abs(), -1, out=sums[place, rows])
    if shift is not None:
        diagonal = blocks.diagonal(dim1=-2, dim2=-1)
        sums += (diagonal + shift[:, None]).abs().sub_(diagonal.abs())
    return sums.masked_fill_(unit, 0).amax(1)


def condition_bound(
    solve: Callable[[Tensor], Tensor], norm: Tensor, unit: Tensor, steps: int = 2
) -> Tensor:
    """Hager's lower bound of the 1-norm condition number, usually within a factor of three: `[B]`.

    One solve with one right-hand side, and two more for every further step, where the exact number
    would need the inverse.

    Args:
        solve: The inverse times `[B, m, b, 1]`.
        norm: `[B]` 1-norm of the factorised matrices over neurons that are not `unit`.
        unit: `[B, m, b]`, neurons with a unit pivot: dead ones and the padding of short blocks.
        steps: Columns of the inverse that are looked at, the first of them an average.
    """
    batch, count, size = unit.shape
    live = (~unit).to(norm.dtype)[..., None]
    probe = live / live.sum(2, keepdim=True).clamp_min(1)
    largest = norm.new_zeros(batch, count)
    for left in reversed(range(steps if size else 0)):
        solution = solve(probe) * live
        largest = torch.maximum(largest, solution.abs().sum((2, 3)))
        if left:
            signs = torch.where(solution >= 0, live, -live)
            slopes = solve(signs).abs() * live
            probe = torch.zeros_like(probe).scatter_(2, slopes.argmax(2, keepdim=True), 1.0) * live
    return norm * largest.amax(1)
