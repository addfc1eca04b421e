"""Damped inverses of matrices of unequal sizes, all their blocks at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hcnr_kernels import native
from hcnr_kernels.ops.inverse.blocks import (
    all_finite,
    join_blocks,
    mean_diagonal,
    split_blocks,
    split_neurons,
)
from hcnr_kernels.ops.inverse.ladder import climb, failing_order
from hcnr_kernels.ops.inverse.vectorised import Inverses, checked, invert_stack

FEW = 8
"""Blocks of one width for which a call of their own does not pay: each block of a table costs the
host 6 microseconds, a call and its results about 50."""


def inverse_hessians(
    hessians: Sequence[Tensor], damping: float, block_size: int | None
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """`vectorised.inverse_hessian` of a list: inverses, and damping, status and condition `[B]`.

    Args:
        hessians: `[d, d]` each, one dtype and one device; B of them.
        damping: Share of the mean diagonal, the first level of the ladder.
        block_size: Size of the diagonal blocks; None for whole matrices.
    """
    stacks = [split_blocks(one[None], block_size) for one in hessians]
    units = [
        split_neurons(one.diagonal()[None] == 0, stack, fill=True)[0]
        for one, stack in zip(hessians, stacks, strict=True)
    ]
    blocks = [stack[0] for stack in stacks]
    mean = torch.cat([mean_diagonal(one[None]) for one in hessians])
    results: list[Tensor] = [*blocks]
    condition = torch.full_like(mean, torch.nan)

    def attempt(which: Tensor | None, level: float) -> Tensor:
        chosen = list(range(len(blocks))) if which is None else which.tolist()
        shifts = [level * mean[i].expand(len(blocks[i])) for i in chosen]
        inverses = invert_stacks([blocks[i] for i in chosen], shifts, [units[i] for i in chosen])
        for i, inverse in zip(chosen, inverses, strict=True):
            results[i], condition[i] = inverse.results, inverse.norms.amax(0).prod()
        sizes = [blocks[i].shape[-1] for i in chosen]
        orders = [
            failing_order(inverse.order[None], b)
            for inverse, b in zip(inverses, sizes, strict=True)
        ]
        return torch.cat(orders)

    finite = torch.cat([all_finite(one[None]) for one in hessians])
    used, status, failed = climb(finite, damping, attempt)
    matrices = [
        join_blocks(result[None], len(one))[0]
        for result, one in zip(results, hessians, strict=True)
    ]
    for index in failed:
        matrices[index] = torch.full_like(hessians[index], torch.nan)
        condition[index] = torch.nan
    return matrices, used.to(mean.dtype), status, condition


def invert_stacks(
    stacks: list[Tensor], shifts: list[Tensor], units: list[Tensor]
) -> list[Inverses]:
    """`invert_stack` of every stack: one call for all of one width, or for all there are.

    Args:
        stacks: `[N, b, b]` each, N and b its own.
        shifts: `[N]` each.
        units: `[N, b]` each.
    """
    widths: dict[int, list[int]] = {}
    for index, stack in enumerate(stacks):
        widths.setdefault(stack.shape[-1], []).append(index)
    first = stacks[0]
    taken = {
        width: indices
        for width, indices in widths.items()
        if native.takes(first.device, first.dtype, width)
    }
    by_index: dict[int, Inverses] = {}
    several = [index for indices in taken.values() for index in indices]
    if len(taken) > 1 and sum(len(stacks[i]) for i in several) <= FEW * len(taken):
        inverses = _invert_table([stacks[i] for i in several], [shifts[i] for i in several])
        by_index.update(zip(several, inverses, strict=True))
        taken = {}
    for indices in taken.values():
        joined = [torch.cat([part[i] for i in indices]) for part in (stacks, shifts, units)]
        parts = [part.split([len(stacks[i]) for i in indices]) for part in invert_stack(*joined)]
        by_index.update(zip(indices, map(Inverses, *parts), strict=True))
    for index, arguments in enumerate(zip(stacks, shifts, units, strict=True)):
        if index not in by_index:
            by_index[index] = invert_stack(*arguments)
    return [by_index[index] for index in range(len(stacks))]


def _invert_table(stacks: list[Tensor], shifts: list[Tensor]) -> list[Inverses]:
    """Blocks of unequal widths in one call of the compiled extension."""
    counts = [len(stack) for stack in stacks]
    inverted = native.invert_blocks(
        [block for stack in stacks for block in stack], torch.cat(shifts)
    )
    blocks = iter(inverted.results)
    results = [torch.stack([next(blocks) for _ in range(count)]) for count in counts]
    facts = zip(inverted.status.split(counts), inverted.norms.split(counts), strict=True)
    return [checked(one, *rest) for one, rest in zip(results, facts, strict=True)]
