"""Damped inverses: how blocks are inverted, the dead neurons, the status.

Matrices come as stacks `[B, m, b, b]` (`blocks`). Blocks that the compiled extension can take are
inverted by it, all at once; without it by torch's batched LAPACK. Larger ones are inverted one at a
time by `factor`, which starts the family's Triton kernels where the matrix is fp32 on a GPU.

Woodbury on the token side is not offered. Operators are given the curvature, which other runs
share, not the tokens; to find n tokens again in a curvature of rank n costs as much as its factor,
and the 1-norm of the condition number needs the curvature anyway.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels import native
from hcnr_kernels.ops.inverse.blocks import (
    all_finite,
    copy_lower_,
    damp_,
    join_blocks,
    mean_diagonal,
    split_blocks,
    split_neurons,
)
from hcnr_kernels.ops.inverse.condition import one_norms
from hcnr_kernels.ops.inverse.factor import invert_
from hcnr_kernels.ops.inverse.ladder import climb, failing_order
from hcnr_kernels.ops.inverse.tiling import tiling_for


class Inverses(NamedTuple):
    """Inverses `[N, b, b]`, failing orders `[N]` int32 (0 if none, never negative), norms `[N, 2]`.

    The norms are those of the damped block and of its inverse, in the 1-norm, over live neurons.
    """

    results: Tensor
    order: Tensor
    norms: Tensor


class StackedInverse(NamedTuple):
    """Inverse as a stack `[B, m, b, b]`; damping, status and condition `[B]`."""

    stack: Tensor
    damping: Tensor
    status: Tensor
    condition: Tensor


def recursion_is_faster(size: int, device: torch.device) -> bool:
    """Whether one matrix of this size is inverted by `factor` rather than by LAPACK.

    On a CPU (MKL, one thread, fp32) a tie from 384 to 2000, 0.86 to 1.05, except where rows are a
    multiple of 512 bytes apart, as in most models: there MKL's factor is 2.5 times slower, and the
    recursion wins from 256 on, by 1.15 to 1.6.
    """
    if device.type != "cpu":
        return size > 256
    return size >= 256 if size % 128 == 0 else size > 2048


def invert(hessian: Tensor, damping: float, block_size: int | None) -> StackedInverse:
    """Inverse of `blockdiag(H) + damping * mean(diag H) * I`, as a stack, NaN where it failed.

    A matrix is one unit: all its blocks share one damping. A dead neuron, one with a zero diagonal,
    gets a unit pivot.

    Args:
        hessian: `[B, d, d]` symmetric.
        damping: Share of the mean diagonal, the first level of the ladder.
        block_size: Size of the diagonal blocks; None for the whole matrix.
    """
    stack = split_blocks(hessian, block_size)
    batch, count, size, _ = stack.shape
    shift = mean_diagonal(hessian)
    unit = split_neurons(hessian.diagonal(dim1=-2, dim2=-1) == 0, stack, fill=True)
    condition = hessian.new_full((batch,), torch.nan)
    inverse: Tensor | None = None

    def attempt(which: Tensor | None, level: float) -> Tensor:
        nonlocal inverse, condition
        blocks, shifts, units = stack, shift, unit
        if which is not None:
            blocks, shifts, units = stack[which], shift[which], unit[which]
        shifts = level * shifts
        if count > 1:
            shifts = shifts.repeat_interleave(count)
        results, orders, norms = invert_stack(blocks.flatten(0, 1), shifts, units.flatten(0, 1))
        results = results.unflatten(0, (-1, count))
        conditions = norms.view(-1, count, 2).amax(1).prod(1)
        if which is None:
            inverse, condition = results, conditions
        else:
            if inverse is None:
                inverse = torch.empty_like(stack, memory_format=torch.contiguous_format)
            inverse[which], condition[which] = results, conditions
        return orders if count == 1 else failing_order(orders.view(-1, count), size)

    used, status, failed = climb(all_finite(hessian), damping, attempt)
    if inverse is None:
        inverse = torch.empty_like(stack, memory_format=torch.contiguous_format)
    for index in failed:
        inverse[index] = torch.nan
        condition[index] = torch.nan
    return StackedInverse(inverse, used.to(hessian.dtype), status, condition)


def invert_stack(blocks: Tensor, shift: Tensor, unit: Tensor) -> Inverses:
    """Inverses of `blocks + shift * I`: the one place that chooses how.

    Args:
        blocks: `[N, b, b]` symmetric.
        shift: `[N]` what is added to the diagonals.
        unit: `[N, b]` bool, neurons whose damped diagonal is one: those with a zero diagonal.
    """
    size = blocks.shape[-1]
    if native.takes(blocks.device, blocks.dtype, size):
        results, order, norms = native.invert_blocks(blocks, shift)
    else:
        large = recursion_is_faster(size, blocks.device)
        results, order = (_invert_large if large else _invert_lapack)(blocks, shift, unit)
        norms = torch.stack([one_norms(blocks, unit, shift), one_norms(results, unit)], 1)
    return checked(results, order, norms)


def checked(results: Tensor, order: Tensor, norms: Tensor) -> Inverses:
    """What the range of the dtype does not hold is a failure like any other, not a result.

    A block of a finite matrix that overflows once it is damped fails at its first minor.
    """
    beyond = (order == 0) & ~norms[:, 1].isfinite()
    order = order.masked_fill(beyond, results.shape[-1]).masked_fill(order < 0, 1)
    return Inverses(results, order, norms)


def _invert_large(blocks: Tensor, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """One block at a time, in place of its copy; a failed one is left as it is."""
    results = torch.empty_like(blocks, memory_format=torch.contiguous_format)
    tiling, orders = tiling_for(blocks.device), []
    for index, result in enumerate(results):
        copy_lower_(result, blocks[index])
        damp_(result[None], shift[index, None], unit[index, None])
        orders.append(invert_(result, tiling))
    return results, torch.stack(orders)


def _invert_lapack(blocks: Tensor, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """One batched call of `cholesky_ex` and one of `cholesky_inverse`."""
    damped = damp_(blocks.clone(memory_format=torch.contiguous_format), shift, unit)
    factor, order = torch.linalg.cholesky_ex(damped)
    # A zero on the diagonal of a factor would raise.
    factor.diagonal(dim1=-2, dim2=-1).masked_fill_(order[:, None] > 0, 1.0)
    # The result is symmetric and column-major: its transpose is the same matrix, row-major.
    return torch.cholesky_inverse(factor).mT, order


def inverse_hessian(
    hessian: Tensor, damping: float, block_size: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Damped inverses of `[B, d, d]` as (matrix, damping, status, condition); never raises."""
    stack, used, status, condition = invert(hessian, damping, block_size)
    matrix = join_blocks(stack, hessian.shape[-1])
    if stack.shape[1] > 1:
        matrix.masked_fill_((status != 0)[:, None, None], torch.nan)
    return matrix, used, status, condition
