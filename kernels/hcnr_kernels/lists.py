"""Damped inverses of matrices of unequal sizes, all their blocks at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hcnr_kernels import native
from hcnr_kernels.inverse import Inverses, checked, climb, failing_order, invert_stack
from hcnr_kernels.stacks import all_finite, join_blocks, mean_diagonal, split_blocks, split_neurons


def inverse_hessians(
    hessians: Sequence[Tensor], damping: float, block_size: int | None
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """`inverse.inverse_hessian` of a list: inverses, and damping, status and condition `[B]`.

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
        found = invert_stacks([blocks[i] for i in chosen], shifts, [units[i] for i in chosen])
        for i, one in zip(chosen, found, strict=True):
            results[i], condition[i] = one.results, one.norms.amax(0).prod()
        sizes = [blocks[i].shape[-1] for i in chosen]
        orders = [failing_order(one.order[None], b) for one, b in zip(found, sizes, strict=True)]
        return torch.cat(orders)

    finite = torch.cat([all_finite(one[None]) for one in hessians])
    used, status, failed = climb(finite, damping, attempt)
    matrices = [
        join_blocks(result[None], len(one))[0]
        for result, one in zip(results, hessians, strict=True)
    ]
    for place in failed:
        matrices[place] = torch.full_like(hessians[place], torch.nan)
        condition[place] = torch.nan
    return matrices, used.to(mean.dtype), status, condition


def invert_stacks(
    stacks: list[Tensor], shifts: list[Tensor], units: list[Tensor]
) -> list[Inverses]:
    """`invert_stack` of every stack, by one call of the compiled extension where it takes them.

    Args:
        stacks: `[N, b, b]` each, N and b its own.
        shifts: `[N]` each.
        units: `[N, b]` each.
    """
    counts = [len(stack) for stack in stacks]
    widths = {stack.shape[-1] for stack in stacks}
    first = stacks[0]
    if native.unavailable(first.device, first.dtype, max(widths)) is not None:
        return [invert_stack(*one) for one in zip(stacks, shifts, units, strict=True)]
    if len(widths) == 1:
        found = invert_stack(*(torch.cat(parts) for parts in (stacks, shifts, units)))
        return list(map(Inverses, *(part.split(counts) for part in found)))
    every = native.invert_blocks([block for stack in stacks for block in stack], torch.cat(shifts))
    ends = torch.tensor(counts).cumsum(0).tolist()
    several = [every.results[end - count : end] for end, count in zip(ends, counts, strict=True)]
    status, norms = every.status.split(counts), every.norms.split(counts)
    return [
        checked(torch.stack(found), *facts)
        for found, *facts in zip(several, status, norms, strict=True)
    ]
