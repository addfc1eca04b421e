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
        for chunk in chunks(count, chunk_length(size * row_bytes, budget=budget)):
            torch.sum(blocks[chunk].abs(), -1, out=sums[chunk])
    else:
        sums = blocks.new_empty(count, size)
        for index in range(count):
            for rows in chunks(size, chunk_length(row_bytes, budget=budget)):
                torch.sum(blocks[index, rows].abs(), -1, out=sums[index, rows])
    if shift is not None:
        diagonal = blocks.diagonal(dim1=-2, dim2=-1)
        sums += (diagonal + shift[:, None]).abs().sub_(diagonal.abs())
    return sums.masked_fill_(unit, 0).amax(1)


def condition_bound(
    solve: Callable[[Tensor], Tensor], norm: Tensor, unit: Tensor, steps: int = 2
) -> Tensor:
    """Hager's lower bound of the 1-norm condition number, usually within a factor of three: `[B]`.

    From two starts at once, as one launch serves both: one solve with two right-hand sides, and two
    more for every further step, where the exact number would need the inverse.

    Args:
        solve: Multiplies rows `[B, m, 2, b]` by the inverse; may do so in place.
        norm: `[B]` 1-norm of the factorised matrices over neurons that are not `unit`.
        unit: `[B, m, b]`, neurons with a unit pivot: dead ones and the padding of short blocks.
            The inverse is that of the identity there, so that no other neuron sees them.
        steps: Columns of the inverse that are looked at from each start, the first an average.
    """
    if unit.shape[-1] == 0:
        return norm * 0
    live = (~unit).to(norm.dtype)[..., None, :]
    probe = starts(live)
    largest = norm.new_zeros(1)
    for left in reversed(range(steps)):
        solution = solve(probe)
        largest = torch.maximum(largest, torch.linalg.vector_norm(solution, 1, dim=-1))
        if left:
            # The columns along which the norm of the solution grows fastest.
            slopes = solve(torch.copysign(live, solution)).abs_()
            best = slopes.argmax(-1, keepdim=True)
            probe = torch.zeros_like(slopes).scatter_(-1, best, 1.0).mul_(live)
    return norm * largest.amax((1, 2))


def starts(live: Tensor) -> Tensor:
    """Two averages of columns over `live [B, m, 1, b]`, each of 1-norm one: `[B, m, 2, b]`.

    The first is the plain average, which two neurons that are all but copies of each other leave
    unseen: their difference cancels in it. The second has alternating signs and growing weights, as
    LAPACK's last trial (`xLACON`).
    """
    both = live.repeat(1, 1, 2, 1)
    ramp = both[..., 1, :]
    ramp.mul_(torch.linspace(1, 2, live.shape[-1], dtype=live.dtype, device=live.device))
    ramp[..., 1::2].neg_()
    return both.div_(torch.linalg.vector_norm(both, 1, dim=-1, keepdim=True).clamp_min_(1))
