"""Method.md (6)-(9) as products and factorisations.

For the output axis every matrix is read transposed. All products run over the neurons of one
diagonal block at a time, batched: `[m, ...]`, with m = 1 when no block size is given.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hcnr_kernels import native
from hcnr_kernels.chunks import chunk_length, chunks
from hcnr_kernels.ops.compensation.columns import Side, multiply, sides, submatrix
from hcnr_kernels.ops.inverse.blocks import (
    all_finite,
    copy_lower_,
    damp_,
    mean_diagonal,
    split_blocks,
)
from hcnr_kernels.ops.inverse.condition import condition_bound, one_norms
from hcnr_kernels.ops.inverse.factor import Cholesky, cholesky_, inverse_rows_
from hcnr_kernels.ops.inverse.ladder import climb, failing_order
from hcnr_kernels.ops.inverse.solves import solve_, solver_of
from hcnr_kernels.ops.inverse.tiling import tiling_for
from hcnr_kernels.ops.inverse.vectorised import invert, invert_stack

LARGE = 256
"""Neurons of one block from which systems are solved by their factor. Below, and for blocks, a
product with the inverse costs what two triangular solves do, and the inverses come all at once."""


def compensation_ex(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    axis: str,
    kind: str,
    task_hessian: Tensor | None,
    task_weight: float,
    damping: float,
    block_size: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E of method.md (6)-(9) as (deviation, damping, condition, status); never raises."""
    dtype = torch.promote_types(torch.float32, delta.dtype)
    deviation = delta.to(dtype, copy=True)
    lines = deviation if axis == "input" else deviation.T
    if hessian is None or kind == "none" or not bool(mask.any()):
        lines[:, mask] = 0
        zero = torch.zeros((), dtype=dtype, device=delta.device)
        return deviation, zero, zero.clone(), zero.to(torch.int32)
    hessian = hessian.to(dtype)
    if kind == "sum":
        facts = _sum_(lines, mask, hessian, damping, block_size)
    elif kind == "joint" or task_hessian is None:
        facts = _balanced_(lines, mask, hessian, None, 0.0, damping, block_size)
    else:
        task = task_hessian.to(dtype)
        facts = _balanced_(lines, mask, hessian, task, task_weight, damping, block_size)
    used, condition, status = facts
    return deviation, used.clone(), condition.clone(), status.clone()


Facts = tuple[Tensor, Tensor, Tensor]
"""Damping, condition and status, 0-d each."""


def _sum_(
    lines: Tensor, mask: Tensor, hessian: Tensor, damping: float, block_size: int | None
) -> Facts:
    """Method.md (7), `E_h = (delta * M_task / diag(H^-1)) @ H^-1`, written into `lines`."""
    width = hessian.shape[0]
    whole = block_size is None or block_size >= width
    if whole and width >= LARGE and not native.takes(hessian.device, hessian.dtype, width):
        facts = _sum_of_rows_(lines, mask, hessian, damping)
        if facts is not None:
            return facts
    stack, used, status, condition = invert(hessian[None], damping, block_size)
    inverse = stack[0]
    restored, task = sides(mask, inverse)
    pivots = inverse.diagonal(dim1=-2, dim2=-1).gather(1, task.within)
    weights = submatrix(inverse, task, restored).div_(pivots[:, :, None])
    _multiply_(lines, task, restored, inverse.shape[-1], weights, status[0])
    return used[0], condition[0], status[0]


def _sum_of_rows_(lines: Tensor, mask: Tensor, hessian: Tensor, damping: float) -> Facts | None:
    """`_sum_` from the rows of `H^-1` that it needs, those of the task neurons.

    With the h restored neurons put first these rows come out of the last steps of the inverse,
    `2/3 h^3 + h^2 t` operations before its end: a fifth fewer in all when half are restored.
    Returns None where no damping is enough: the failing minor is then one of another order.
    """
    permutation = torch.cat([mask.nonzero(), (~mask).nonzero()]).squeeze(1)
    split, tiling = int(mask.sum()), tiling_for(hessian.device)
    shift, finite = mean_diagonal(hessian[None]), all_finite(hessian[None])
    unit = (hessian.diagonal() == 0)[None, permutation]
    cholesky: Cholesky | None = None

    def attempt(_: Tensor | None, level: float) -> Tensor:
        nonlocal cholesky
        system = hessian.index_select(0, permutation).index_select(1, permutation)
        damped = damp_(system[None], level * shift, unit)[0]
        cholesky = cholesky_(damped, tiling, split, rows=True)
        return cholesky.order[None]

    used, status, failed = climb(finite, damping, attempt)
    used = used.to(hessian.dtype)
    if cholesky is None or failed:
        if bool(finite):
            return None
        lines[:, mask] = torch.nan
        return used[0], torch.full_like(used[0], torch.nan), status[0]
    norm = one_norms(hessian[None], hessian.diagonal()[None] == 0, used * shift)
    condition = condition_bound(solver_of(cholesky), norm, unit[None])
    rows = inverse_rows_(cholesky, split, tiling)
    weights = rows[:, :split].div_(rows[:, split:].diagonal()[:, None])
    status = _within_range(status, condition, len(permutation))
    all_neurons = torch.ones_like(permutation, dtype=torch.bool)[None]
    source, target = (
        Side(some[None], all_neurons[:, : len(some)])
        for some in (permutation[split:], permutation[:split])
    )
    _multiply_(lines, source, target, len(permutation), weights[None], status[0])
    return used[0], condition[0], status[0]


def _within_range(status: Tensor, condition: Tensor, order: int) -> Tensor:
    """A result beyond the range of the dtype is a failure like any other."""
    return status.masked_fill((status == 0) & ~condition.isfinite(), order)


def _multiply_(
    lines: Tensor, source: Side, target: Side, size: int, weights: Tensor, status: Tensor
) -> None:
    """`lines[:, target] = lines[:, source] @ weights [m, s, t]`, NaN where the status is not 0."""
    for rows in _row_chunks(lines):
        part = lines[rows]
        product = multiply(source.columns_of(part, size), weights)
        target.scatter_(part, size, product.masked_fill_(status != 0, torch.nan))


def system_is_cheaper(lines: int, right: int) -> bool:
    """Whether to solve for what `lines [r, right]` is multiplied by, not for the product.

    `(lines @ C) S^-1` takes `2 h^2 r` operations to solve, `lines @ (C S^-1)` takes
    `2 h^2 right`; the product, `2 r right h`, is the same. `right` counts the task neurons, for
    `balanced` the restored ones as well.
    """
    return right < lines


def _balanced_(
    lines: Tensor,
    mask: Tensor,
    hessian: Tensor,
    task_hessian: Tensor | None,
    task_weight: float,
    damping: float,
    block_size: int | None,
) -> Facts:
    """Method.md (8) and (9) on the restored neurons of `lines`; (8) is (9) with `mu = 0`.

    With each H divided by its mean diagonal and damped, `p = 1 / (1 + mu)` and `q = mu / (1 + mu)`,
    (9) divided by `1 + mu` (so that no mu overflows) and with `delta_t H_task[t, h]` cancelled is
    `E_h = [q delta_h H_task[h, h] - p delta_t H_hon[t, h]] (p H_hon + q H_task)[h, h]^-1`.
    """
    honesty_share, task_share = 1 / (1 + task_weight), task_weight / (1 + task_weight)
    finite = all_finite(hessian[None])
    stack = split_blocks(hessian[None], block_size)[0]
    restored, task = sides(mask, stack)
    scale = honesty_share * _reciprocal(mean_diagonal(hessian[None]))
    system = submatrix(stack, restored, restored).mul_(scale)
    cross = submatrix(stack, task, restored).mul_(-scale)
    task_block = None
    if task_hessian is not None and task_weight > 0:
        finite &= all_finite(task_hessian[None])
        task_scale = task_share * _reciprocal(mean_diagonal(task_hessian[None]))
        task_stack = split_blocks(task_hessian[None], block_size)[0]
        task_block = submatrix(task_stack, restored, restored).mul_(task_scale)
        system += task_block
    # Damping lifts the diagonal of a dead neuron; only without any does it need a pivot.
    unit = ~restored.valid
    if damping == 0:
        unit = unit | (system.diagonal(dim1=-2, dim2=-1) == 0)
    solve, (used, condition, status) = _factorised(system, unit, damping, finite)
    size = stack.shape[-1]
    sources = task.within.shape[1]
    if task_block is not None:
        task_block.diagonal(dim1=-2, dim2=-1).add_(task_share * used)
        sources += restored.within.shape[1]
    first = system_is_cheaper(lines.shape[0], sources)
    if first:
        cross = solve(cross)
        task_block = None if task_block is None else solve(task_block)
    for rows in _row_chunks(lines):
        part = lines[rows]
        right = multiply(task.columns_of(part, size), cross)
        if task_block is not None:
            right += multiply(restored.columns_of(part, size), task_block)
        solution = right if first else solve(right)
        restored.scatter_(part, size, solution.masked_fill_(status != 0, torch.nan))
    return used, condition, status


def _factorised(
    system: Tensor, unit: Tensor, damping: float, finite: Tensor
) -> tuple[Callable[[Tensor], Tensor], Facts]:
    """Factorise `system [m, b, b]` plus the damping.

    Args:
        system: Symmetric blocks of one matrix.
        unit: `[m, b]` bool, neurons whose damped diagonal is one.
        damping: What is added to the diagonal, the first level of the ladder.
        finite: `[1]` bool.

    Returns:
        A function that gives `right [m, r, b]` times the inverse (perhaps in place), and the facts.
    """
    count, size, _ = system.shape
    tiling = tiling_for(system.device)
    inverse, norms, large = system, system.new_zeros(count, 2), None

    def attempt(_: Tensor | None, level: float) -> Tensor:
        nonlocal inverse, norms, large
        matrix = torch.empty_like(system)
        if count > 1 or size < LARGE:
            # Damped here, because `invert_stack` takes a zero on the diagonal for a dead neuron;
            # so one that is left after damping has to be found here, too.
            diagonal = matrix.copy_(system).diagonal(dim1=-2, dim2=-1).add_(~unit, alpha=level)
            inverse, orders, norms = invert_stack(matrix, system.new_zeros(count), unit)
            zero = (diagonal == 0) & ~unit
            orders = torch.where(zero.any(1) & (orders == 0), zero.int().argmax(1) + 1, orders)
            return failing_order(orders[None], size)
        copy_lower_(matrix[0], system[0])
        large = cholesky_(damp_(matrix, system.new_full((count,), level), unit)[0], tiling)
        return large.order[None]

    used, status, failed = climb(finite, damping, attempt)
    used = used.to(system.dtype)
    if failed:
        return lambda right: right, (used[0], torch.full_like(used[0], torch.nan), status[0])
    if large is None:
        condition = norms.amax(0).prod()
        return lambda right: multiply(right, inverse), (used[0], condition, status[0])
    cholesky = large
    norm = one_norms(system, unit, used.expand(count)).amax(0, keepdim=True)
    bound = condition_bound(solver_of(cholesky), norm, unit[None])
    status = _within_range(status, bound, size)
    return lambda right: solve_(cholesky, right[0].contiguous(), tiling)[None], (
        used[0],
        bound[0],
        status[0],
    )


def _reciprocal(mean: Tensor) -> Tensor:
    """`1 / mean`, zero for a matrix that is dead altogether."""
    return torch.where(mean == 0, 0, 1 / mean)


def _row_chunks(lines: Tensor) -> Iterator[slice]:
    """Rows of `lines [r, d]` to solve for at once: gathered sides, right-hand side and solution.

    On a CPU a quarter of what memory allows: temporaries of a few megabytes are used again, larger
    ones are fetched from the system each time, which costs more than to fill them.
    """
    share = 16 if lines.device.type == "cpu" else 4
    return chunks(lines.shape[0], chunk_length(share * lines.element_size() * lines.shape[1]))


def objective(deviation: Tensor, hessian: Tensor, axis: str) -> Tensor:
    """What (8) minimises, `tr(E H E^T)` (input) or `tr(E^T H E)` (output), 0-d float64."""
    lines = deviation if axis == "input" else deviation.T
    total = torch.zeros((), dtype=torch.float64, device=deviation.device)
    size = chunk_length(2 * hessian.element_size() * hessian.shape[0])
    for rows in chunks(lines.shape[0], size):
        part = lines[rows].to(hessian.dtype)
        total.add_((part @ hessian).mul_(part).sum(dtype=torch.float64))
    return total
