"""What the other neurons have to become: method.md (6)-(9), and the objectives (8)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.checks import (
    AXES,
    FACTORS,
    Axis,
    beside,
    choice,
    damping_and_blocks,
    floating,
    neurons,
    non_negative,
    refuse,
    shaped,
    typed,
)
from hcnr_kernels.library import operator
from hcnr_kernels.ops.compensation import half_product, vectorised
from hcnr_kernels.ops.inverse.ladder import raise_on_failure

_TRITON = f"{__name__}.triton"

Kind = Literal["none", "sum", "joint", "balanced"]
KINDS = ("none", "sum", "joint", "balanced")


class Compensation(NamedTuple):
    """What `compensation_ex` returns.

    Attributes:
        deviation: E `[out, in]` fp32, NaN in the restored slice when the status is not zero.
        damping: 0-d damping used; 0 when no matrix was factorised (`none`, nothing restored).
        condition: 0-d condition of the factorised matrix in the 1-norm: exact where an inverse is
            formed, else Hager's lower bound; 0 when no matrix was factorised.
        status: 0-d int32 as in `InverseHessian`; an order counts restored neurons for `joint` and
            `balanced`.
    """

    deviation: Tensor
    damping: Tensor
    condition: Tensor
    status: Tensor


def _curvature(argument: str, matrix: Tensor | None, neurons: int, kind: str, like: Tensor) -> None:
    if matrix is None:
        refuse(argument, f"given for kind {kind!r}", None)
    typed(argument, matrix, FACTORS)
    shaped(argument, matrix, (neurons, neurons))
    beside(argument, matrix, like)


def _check_compensation(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    axis: str,
    kind: str,
    task_hessian: Tensor | None,
    task_weight: float,
    damping: float,
    block_size: int | None,
) -> None:
    """Arguments of `compensation` and `compensation_ex`."""
    floating("delta", delta, 2, "[out, in]")
    neurons(mask, delta, axis)
    choice("kind", kind, KINDS)
    damping_and_blocks(damping, block_size)
    non_negative("task_weight", task_weight)
    if kind != "none":
        _curvature("hessian", hessian, mask.shape[0], kind, delta)
    if kind == "balanced":
        _curvature("task_hessian", task_hessian, mask.shape[0], kind, delta)


def _fake_compensation(delta: Tensor, *_: object) -> tuple[Tensor, ...]:
    dtype = torch.promote_types(torch.float32, delta.dtype)
    scalars = (delta.new_empty((), dtype=kind) for kind in (dtype, dtype, torch.int32))
    return torch.empty_like(delta, dtype=dtype), *scalars


_compensation_ex = operator(
    "compensation_ex(Tensor delta, Tensor mask, Tensor? hessian, str axis, str kind,"
    " Tensor? task_hessian, float task_weight, float damping, int? block_size)"
    " -> (Tensor deviation, Tensor damping, Tensor condition, Tensor status)",
    check=_check_compensation,
    kernel=vectorised.compensation_ex,
    native=True,
    partly="large fp32 matrices",
    fake=_fake_compensation,
)


@torch.no_grad()
def compensation_ex(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    *,
    axis: Axis,
    kind: Kind,
    task_hessian: Tensor | None = None,
    task_weight: float = 1.0,
    damping: float = 0.01,
    block_size: int | None = None,
) -> Compensation:
    """`compensation` together with how it was obtained; a failed factorisation does not raise.

    Arguments as in `compensation`.
    """
    return Compensation(
        *_compensation_ex(
            delta, mask, hessian, axis, kind, task_hessian, task_weight, damping, block_size
        )
    )


@torch.no_grad()
def compensation(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    *,
    axis: Axis,
    kind: Kind,
    task_hessian: Tensor | None = None,
    task_weight: float = 1.0,
    damping: float = 0.01,
    block_size: int | None = None,
    name: str | None = None,
) -> Tensor:
    """E = W - W0 of the merged weights: method.md (6) none, (7) sum, (8) joint, (9) balanced.

    Args:
        delta: `W1 - W0 [out, in]`.
        mask: `[d']` bool, true on the neurons to restore; the others keep `delta` exactly.
        hessian: `[d', d']` fp32 or float64 symmetric, on the honesty data; may be None for `none`.
        axis: The neuron axis.
        kind: `none`, `sum`, `joint` or `balanced`.
        task_hessian: `[d', d']`, on the task data, for `balanced`. Dropping the other Kronecker
            factor is exact for one Hessian but an approximation for two: it must be alike on both.
        task_weight: mu of (9), finite: 0 is `joint`, the limit of a large one the tuned weights.
        damping: Share of the mean diagonal of the whole H, raised along `DAMPING_LADDER`.
        block_size: Use the diagonal blocks of this size only.
        name: The matrix, for errors.

    Returns:
        E `[out, in]` fp32 (float64 for a float64 `delta`).

    Raises:
        FactorizationError: H holds NaN or infinity, or stays indefinite.
    """
    result = compensation_ex(
        delta,
        mask,
        hessian,
        axis=axis,
        kind=kind,
        task_hessian=task_hessian,
        task_weight=task_weight,
        damping=damping,
        block_size=block_size,
    )
    raise_on_failure(result.status[None], result.damping[None], [name or "the matrix"])
    return result.deviation


def _check_objective(deviation: Tensor, hessian: Tensor, axis: str) -> None:
    """Arguments of `objective`."""
    floating("deviation", deviation, 2, "[out, in]")
    choice("axis", axis, AXES)
    typed("hessian", hessian, FACTORS)
    width = deviation.shape[0 if axis == "output" else 1]
    shaped("hessian", hessian, (width, width))
    beside("hessian", hessian, deviation)


_objective = operator(
    "objective(Tensor deviation, Tensor hessian, str axis) -> Tensor",
    check=_check_objective,
    kernel=vectorised.objective,
    fake=lambda deviation, *_: deviation.new_empty((), dtype=torch.float64),
)


@torch.no_grad()
def objective(deviation: Tensor, hessian: Tensor, *, axis: Axis) -> Tensor:
    """What (8) minimises: `tr(E H E^T)` (input axis) or `tr(E^T H E)` (output axis).

    Args:
        deviation: E `[out, in]`.
        hessian: `[d', d']` fp32 or float64 symmetric, as measured, not damped.
        axis: The neuron axis.

    Returns:
        0-d float64.
    """
    return _objective(deviation, hessian, axis)


class Objectives(NamedTuple):
    """What `objectives` returns: method.md (8), each 0-d float64.

    Attributes:
        none: Of the deviation without compensation, zero on the restored neurons.
        compensated: Of the deviation itself.
    """

    none: Tensor
    compensated: Tensor


def _check_objectives(deviation: Tensor, mask: Tensor, hessian: Tensor, axis: str) -> None:
    """Arguments of `objectives`."""
    _check_objective(deviation, hessian, axis)
    neurons(mask, deviation, axis)


_objectives = operator(
    "objectives(Tensor deviation, Tensor mask, Tensor hessian, str axis)"
    " -> (Tensor none, Tensor compensated)",
    check=_check_objectives,
    kernel=half_product.objectives,
    fake=lambda deviation, *_: tuple(
        deviation.new_empty((), dtype=torch.float64) for _ in range(2)
    ),
    triton=_TRITON,
)


@torch.no_grad()
def objectives(deviation: Tensor, mask: Tensor, hessian: Tensor, *, axis: Axis) -> Objectives:
    """Both objectives of method.md (8) that a report gives, from half of one product.

    On a GPU E enters as the sum of two bf16 numbers: the results are those of a deviation no entry
    of which is further than 2^-17 of itself from E. Elsewhere products are of the dtype of H. Sums
    of products with H are float64.

    Args:
        deviation: E `[out, in]`, on the neurons outside `mask` the fine-tuning change itself.
        mask: `[d']` bool, true on the restored neurons.
        hessian: `[d', d']` fp32 or float64 symmetric, as measured, not damped.
        axis: The neuron axis.
    """
    return Objectives(*_objectives(deviation, mask, hessian, axis))
