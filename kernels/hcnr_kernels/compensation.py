"""Method.md (6)-(9) as products and factorisations.

For the output axis every matrix is read transposed. All products run over the neurons of one
diagonal block at a time, batched: `[m, ...]`, with m = 1 when no block size is given.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.inverse import (
    all_finite,
    condition_estimate,
    damped_cholesky,
    invert,
    mean_diagonal,
    one_norm,
    split_blocks,
    split_neurons,
)
from hcnr_kernels.tiles import chunk_length, chunks


class Compensation(NamedTuple):
    """What `compensation_ex` returns.

    Attributes:
        deviation: E `[out, in]` fp32, NaN in the restored slice when the status is not zero.
        damping: 0-d damping used; 0 when no matrix was factorised (`none`, nothing restored).
        condition: 0-d condition of the factorised matrix in the 1-norm: exact for `sum`, Hager's
            lower bound for `joint` and `balanced`, 0 when no matrix was factorised.
        status: 0-d int32 as in `InverseHessian`; an order counts restored neurons for `joint` and
            `balanced`.
    """

    deviation: Tensor
    damping: Tensor
    condition: Tensor
    status: Tensor


class _Slice(NamedTuple):
    """Neurons of one side: `within [m, c]` their place in the block, `valid` false for padding."""

    within: Tensor
    valid: Tensor

    def columns_of(self, lines: Tensor, size: int) -> Tensor:
        """Columns of `lines [r, d]` on this side, per block: `[m, r, c]`.

        A padded place holds some column; the matrix it is multiplied by is zero there.
        """
        start = torch.arange(self.within.shape[0], device=lines.device)[:, None] * size
        index = (start + self.within).clamp(max=lines.shape[1] - 1)
        return lines[:, index].movedim(0, 1)

    def scatter_(self, lines: Tensor, size: int, values: Tensor) -> None:
        """Write `values [m, r, c]` back to the columns of `lines [r, d]`."""
        start = torch.arange(self.within.shape[0], device=lines.device)[:, None] * size
        lines[:, (start + self.within)[self.valid]] = values.movedim(1, 0)[:, self.valid]


def _sides(mask: Tensor, stack: Tensor) -> tuple[_Slice, _Slice]:
    """The restored and the task neurons of `mask [d]`."""
    restored = split_neurons(mask[None], stack[None], fill=False)[0]
    task = split_neurons(~mask[None], stack[None], fill=False)[0]
    return _side(restored), _side(task)


def _side(member: Tensor) -> _Slice:
    counts = member.sum(1)
    most = int(counts.max())
    order = member.logical_not().byte().argsort(dim=1, stable=True)[:, :most]
    valid = torch.arange(most, device=member.device) < counts[:, None]
    return _Slice(order, valid)


def _submatrix(stack: Tensor, rows: _Slice, columns: _Slice) -> Tensor:
    """`stack[rows, columns]` of every block: `[m, r, c]`, zero where padded."""
    block = torch.arange(stack.shape[0], device=stack.device)[:, None, None]
    part = stack[block, rows.within[:, :, None], columns.within[:, None, :]]
    if not bool(rows.valid.all() & columns.valid.all()):
        part.masked_fill_(~(rows.valid[:, :, None] & columns.valid[:, None, :]), 0)
    return part


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


def _sum_(
    lines: Tensor, mask: Tensor, hessian: Tensor, damping: float, block_size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Method.md (7), `E_h = (delta * M_task / diag(H^-1)) @ H^-1`, written into `lines`."""
    stack, used, status, condition = invert(hessian[None], damping, block_size)
    inverse = stack[0]
    restored, task = _sides(mask, inverse)
    pivots = inverse.diagonal(dim1=-2, dim2=-1).gather(1, task.within)
    weights = _submatrix(inverse, task, restored).div_(pivots[:, :, None])
    for rows in _row_chunks(lines):
        part = lines[rows]
        restored.scatter_(
            part, inverse.shape[-1], task.columns_of(part, inverse.shape[-1]) @ weights
        )
    return used[0], condition[0], status[0]


def _balanced_(
    lines: Tensor,
    mask: Tensor,
    hessian: Tensor,
    task_hessian: Tensor | None,
    task_weight: float,
    damping: float,
    block_size: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Method.md (8) and (9) on the restored neurons of `lines`; (8) is (9) with `mu = 0`.

    With each H divided by its mean diagonal and damped, `p = 1 / (1 + mu)` and `q = mu / (1 + mu)`,
    (9) divided by `1 + mu` (so that no mu overflows) and with `delta_t H_task[t, h]` cancelled is
    `E_h = [q delta_h H_task[h, h] - p delta_t H_hon[t, h]] (p H_hon + q H_task)[h, h]^-1`.
    """
    honest, scarce = 1 / (1 + task_weight), task_weight / (1 + task_weight)
    finite = all_finite(hessian[None])
    stack = split_blocks(hessian[None], block_size)[0]
    restored, task = _sides(mask, stack)
    scale = honest * _reciprocal(mean_diagonal(hessian[None]))
    system = _submatrix(stack, restored, restored).mul_(scale)
    cross = _submatrix(stack, task, restored).mul_(-scale)
    near = None
    if task_hessian is not None and task_weight > 0:
        finite &= all_finite(task_hessian[None])
        task_scale = scarce * _reciprocal(mean_diagonal(task_hessian[None]))
        task_stack = split_blocks(task_hessian[None], block_size)[0]
        near = _submatrix(task_stack, restored, restored).mul_(task_scale)
        system += near
    # Damping lifts the diagonal of a dead neuron; only without any does it need a pivot.
    unit = ~restored.valid
    if damping == 0:
        unit = unit | (system.diagonal(dim1=-2, dim2=-1) == 0)
    one = torch.ones_like(scale)
    factor, used, status = damped_cholesky(system[None], one, damping, unit[None], finite)
    norm = one_norm(system[None], unit[None], used[:, None, None])
    if near is not None:
        near.diagonal(dim1=-2, dim2=-1).add_(scarce * used)
    size = stack.shape[-1]
    for rows in _row_chunks(lines):
        part = lines[rows]
        right = task.columns_of(part, size) @ cross
        if near is not None:
            right += restored.columns_of(part, size) @ near
        restored.scatter_(part, size, torch.cholesky_solve(right.mT, factor[0]).mT)
    return used[0], condition_estimate(factor, norm, unit[None])[0], status[0]


def _reciprocal(mean: Tensor) -> Tensor:
    """`1 / mean`, zero for a matrix that is dead altogether."""
    return torch.where(mean == 0, 0, 1 / mean)


def _row_chunks(lines: Tensor) -> Iterator[slice]:
    """Rows of `lines [r, d]` to solve for at once: gathered sides, right-hand side and solution."""
    return chunks(lines.shape[0], chunk_length(4 * lines.element_size() * lines.shape[1]))
