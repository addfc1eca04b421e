"""The public operators; `schemas.py` registers what they call.

Token tensors are packed: `x [n, in]`, `g [n, out]`; sample b owns the rows
`cu_seqlens[b]:cu_seqlens[b + 1]` (int32, on the same device). Accumulators are fp32 and updated in
place. No operator is differentiable.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hcnr_kernels import checks, lists, schemas
from hcnr_kernels.compensation import Compensation
from hcnr_kernels.inverse import InverseHessian, raise_on_failure
from hcnr_kernels.tiles import Axis

Form = Literal["auto", "gram", "direct"]
Kind = Literal["none", "sum", "joint", "balanced"]


@torch.no_grad()
def fisher_output_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
    form: Form = "auto",
    token_gram: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Add the Fisher scores of a matrix's rows: method.md (1), output axis, not divided by N.

    `scores[k] += sum_b sum_i (G_b[k, i])^2` with `G_b = g_b^T x_b`, by the direct form or the Gram
    form (2), whichever costs fewer operations for each sample.

    On a GPU the host reads no length unless `max_seqlen` and `token_gram` are both missing and the
    Gram form is needed (one synchronisation); the values of the offsets are then checked on the
    device, and scores of offsets that do not hold are NaN. The result is the same, bit for bit, on
    every run.

    Args:
        scores: `[out]` fp32, updated.
        x: `[n, in]` packed inputs.
        g: `[n, out]` packed output gradients.
        cu_seqlens: `[B + 1]` int32.
        seqused: `[B]` int32, how many of its rows sample b uses, from the first; the others are
            padding and are not read. None uses all of them.
        form: `auto`, `gram` or `direct`.
        token_gram: `[n, L]` fp32, `X_b X_b^T` from `token_gram(x, ...)`, shared by the matrices
            that read x; giving it implies the Gram form, and x is then not read.
        max_seqlen: At least the tokens of the longest sample.

    Returns:
        `scores`.
    """
    schemas.fisher_output_(scores, x, g, cu_seqlens, seqused, form, token_gram, max_seqlen)
    return scores


@torch.no_grad()
def fisher_input_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
    form: Form = "auto",
    token_gram: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Add the Fisher scores of a matrix's columns: method.md (1), input axis, not divided by N.

    Arguments as in `fisher_output_`, but `scores [in]` and `token_gram` is that of the gradients,
    `token_gram(g, ...)`.
    """
    schemas.fisher_input_(scores, x, g, cu_seqlens, seqused, form, token_gram, max_seqlen)
    return scores


@torch.no_grad()
def fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the Fisher scores of rows and columns in one pass of the direct form: method.md (1).

    `output_scores [out]` and `input_scores [in]`, fp32, are updated and returned; the other
    arguments as in `fisher_output_`.
    """
    schemas.fisher_both_(output_scores, input_scores, x, g, cu_seqlens, seqused)
    return output_scores, input_scores


@torch.no_grad()
def fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, *, seqused: Tensor | None = None
) -> Tensor:
    """Add the Fisher diagonal: `scores[o, i] += sum_b (G_b[o, i])^2`, not divided by N.

    `scores [out, in]` fp32 is updated, in one read and write per call, and returned; the other
    arguments as in `fisher_output_`.
    """
    schemas.fisher_weight_(scores, x, g, cu_seqlens, seqused)
    return scores


@torch.no_grad()
def token_gram(
    x: Tensor, cu_seqlens: Tensor, *, max_seqlen: int, seqused: Tensor | None = None
) -> Tensor:
    """`X_b X_b^T` of every sample, the factor of method.md (2) that matrices share.

    Args:
        x: `[n, d]` packed inputs or output gradients.
        cu_seqlens: `[B + 1]` int32.
        max_seqlen: L, at least the longest sample.
        seqused: `[B]` int32, as in `fisher_output_`.

    Returns:
        `[n, L]` fp32: the row of a token holds its products with the tokens of its sample, then
        zeros.
    """
    return schemas.token_gram(x, cu_seqlens, seqused, max_seqlen)


@torch.no_grad()
def gram_(gram: Tensor, x: Tensor) -> Tensor:
    """Method.md (5) without the 1/n: `gram += x^T x`, accumulated in fp32 whatever the dtype of x.

    Only the lower triangle of `gram [d, d]` is meaningful; the strict upper one is unspecified
    until `symmetrize_`. Returns `gram`.
    """
    schemas.gram_(gram, x)
    return gram


@torch.no_grad()
def symmetrize_(gram: Tensor) -> Tensor:
    """Copy the lower triangle of `gram [d, d]` onto the upper one; returns `gram`."""
    schemas.symmetrize_(gram)
    return gram


@torch.no_grad()
def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, *, axis: Axis) -> tuple[Tensor, Tensor]:
    """The two sums of squares of method.md (4): `||(W0 - W1) M||^2` and `||W0 M||^2`.

    Args:
        base: W0 `[out, in]`.
        tuned: W1 `[out, in]`.
        mask: `[d']` bool, candidate neurons.
        axis: The neuron axis.

    Returns:
        Two 0-d fp32 tensors, accumulated in float64; their ratio is the square of `d_j`.
    """
    return schemas.perturbation(base, tuned, mask, axis)


@torch.no_grad()
def inverse_hessian(
    hessian: Tensor | Sequence[Tensor],
    *,
    damping: float = 0.01,
    block_size: int | None = None,
    names: Sequence[str] | None = None,
    check: bool = True,
) -> InverseHessian:
    """Inverse of `H + damping * mean(diag H) * I`: method.md 3.

    A matrix that is not positive definite is retried, it alone, at the next values of
    `DAMPING_LADDER`; one that fails at the top is an error, never replaced. Dead neurons (those
    with a zero diagonal) get a unit pivot.

    Args:
        hessian: `[..., d, d]` fp32 or float64, or a list of matrices of any sizes. Each must be
            symmetric, and the row of a neuron whose diagonal is zero too, as in a second moment
            (not verified: it would cost as much as reading it twice).
        damping: Share of the mean diagonal, >= 0.
        block_size: Invert the diagonal blocks of this size only; the last may be smaller, zero
            outside them. All blocks of a matrix share its damping.
        names: One name per matrix, for errors.
        check: Raise on failure, which reads the status on the host and so ends a compiled graph;
            otherwise a failed matrix is NaN and its status says why.

    Raises:
        FactorizationError: A matrix holds NaN or infinity, or stays indefinite.
    """
    if isinstance(hessian, Tensor):
        if hessian.dim() < 2 or 0 in hessian.shape[-2:]:
            checks.refuse(
                "hessian", "square, [..., d, d] with d >= 1", f"shape {tuple(hessian.shape)}"
            )
        batch = hessian.shape[:-2]
        flat = hessian.reshape(-1, *hessian.shape[-2:])
        matrix, *facts = schemas.inverse_hessian(flat, damping, block_size)
        matrix, facts = matrix.view(hessian.shape), [fact.view(batch) for fact in facts]
    else:
        if len(hessian) == 0:
            checks.refuse("hessian", "at least one matrix", "an empty list")
        matrix, *facts = _inverse_of_list(hessian, damping, block_size)
    found = InverseHessian(matrix, *facts)
    count = found.status.numel()
    if names is None:
        names = [f"matrix {place}" for place in range(count)]
    elif isinstance(names, str) or len(names) != count:
        checks.refuse("names", f"a list of {count} names", repr(names))
    if check:
        raise_on_failure(found.status.flatten(), found.damping.flatten(), names)
    return found


def _inverse_of_list(
    hessians: Sequence[Tensor], damping: float, block_size: int | None
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    for one in hessians:
        checks.inverse_hessian(one[None], damping, block_size)
    alike = len({(one.dtype, one.device) for one in hessians}) == 1
    device = hessians[0].device
    # The operator takes one matrix, or several alike. Whatever only stands for tensors goes there.
    real = all(type(one) in (Tensor, torch.nn.Parameter) for one in hessians)
    if alike and real and device.type in ("cpu", "cuda") and not torch.compiler.is_compiling():
        with schemas.exact_products(device):
            return lists.inverse_hessians(hessians, damping, block_size)
    found = [schemas.inverse_hessian(one[None], damping, block_size) for one in hessians]
    damping_used, status, condition = (torch.cat([one[i] for one in found]) for i in (1, 2, 3))
    return [one[0][0] for one in found], damping_used, status, condition


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
        *schemas.compensation_ex(
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
        task_weight: mu of (9): 0 is `joint`, infinity gives the tuned weights back.
        damping: Share of the mean diagonal of the whole H, raised along `DAMPING_LADDER`.
        block_size: Use the diagonal blocks of this size only.
        name: The matrix, for errors.

    Returns:
        E `[out, in]` fp32 (float64 for a float64 `delta`).

    Raises:
        FactorizationError: H holds NaN or infinity, or stays indefinite.
    """
    found = compensation_ex(
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
    raise_on_failure(found.status[None], found.damping[None], [name or "the matrix"])
    return found.deviation


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
    return schemas.objective(deviation, hessian, axis)


@torch.no_grad()
def merge(
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    deviation: Tensor | None,
    *,
    axis: Axis,
    dtype: torch.dtype,
) -> Tensor:
    """Final weights of method.md 3: `W0 + E` on restored neurons, tuned elsewhere.

    Args:
        base: W0 `[out, in]`.
        tuned: W1 `[out, in]`, kept bit for bit outside the restored slice when `dtype` is its own.
        mask: `[d']` bool, true on restored neurons.
        deviation: E `[out, in]`; None restores base bit for bit.
        axis: The neuron axis.
        dtype: Of the result; `W0 + E` is formed in fp32 and rounded to it once.
    """
    return schemas.merge(base, tuned, mask, deviation, axis, dtype)
