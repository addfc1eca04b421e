"""Damped inverses of curvature matrices, one or many, whole or by diagonal blocks: method.md (13).

`vectorised` decides who inverts what: blocks of a few hundred the compiled extension (`csrc/`, on
CPU and GPU) or batched LAPACK, larger ones `factor`, one at a time: on a CPU by recursion, in fp32
on a GPU by the Triton kernels of `triton` and `square`. `ragged` does so for lists of unequal
sizes. docs/cholesky.md says what runs where, and why.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.checks import FACTORS, damping_and_blocks, describe, refuse, typed
from hcnr_kernels.library import exact_products, operator
from hcnr_kernels.ops.inverse import ragged, vectorised
from hcnr_kernels.ops.inverse.ladder import raise_on_failure


class InverseHessian(NamedTuple):
    """Inverses of damped matrices and how they were obtained.

    Attributes:
        matrix: `[..., d, d]` inverse, NaN where the status is not zero; a list for a list.
        damping: `[...]` damping used, as a share of the mean diagonal.
        status: `[...]` int32: 0 done, k > 0 the leading minor of order k is not positive definite
            at the top of the ladder, -1 NaN or infinity in the input.
        condition: `[...]` condition number of the damped matrix in the 1-norm, over live neurons.
    """

    matrix: Tensor | list[Tensor]
    damping: Tensor
    status: Tensor
    condition: Tensor


def _check_inverse_hessian(hessian: Tensor, damping: float, block_size: int | None) -> None:
    """Arguments of `inverse_hessian`; the public function has flattened the leading dimensions."""
    typed("hessian", hessian, FACTORS)
    if hessian.dim() != 3 or hessian.shape[1] != hessian.shape[2] or hessian.shape[2] < 1:
        refuse("hessian", "square, [..., d, d] with d >= 1", describe(hessian))
    damping_and_blocks(damping, block_size)


_inverse_hessian = operator(
    "inverse_hessian(Tensor hessian, float damping, int? block_size)"
    " -> (Tensor matrix, Tensor damping, Tensor status, Tensor condition)",
    check=_check_inverse_hessian,
    kernel=vectorised.inverse_hessian,
    native=True,
    partly="large fp32 matrices",
    fake=lambda hessian, *_: (
        torch.empty_like(hessian, memory_format=torch.contiguous_format),
        hessian.new_empty(hessian.shape[0]),
        hessian.new_empty(hessian.shape[0], dtype=torch.int32),
        hessian.new_empty(hessian.shape[0]),
    ),
)


@torch.no_grad()
def inverse_hessian(
    hessian: Tensor | Sequence[Tensor],
    *,
    damping: float = 0.01,
    block_size: int | None = None,
    names: Sequence[str] | None = None,
    check: bool = True,
) -> InverseHessian:
    """Inverse of `H + damping * mean(diag H) * I`, method.md (13).

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
            refuse("hessian", "square, [..., d, d] with d >= 1", f"shape {tuple(hessian.shape)}")
        batch = hessian.shape[:-2]
        flat = hessian.reshape(-1, *hessian.shape[-2:])
        matrix, *facts = _inverse_hessian(flat, damping, block_size)
        matrix, facts = matrix.view(hessian.shape), [fact.view(batch) for fact in facts]
    else:
        if len(hessian) == 0:
            refuse("hessian", "at least one matrix", "an empty list")
        matrix, *facts = _inverse_of_list(hessian, damping, block_size)
    inverses = InverseHessian(matrix, *facts)
    count = inverses.status.numel()
    if names is None:
        names = [f"matrix {place}" for place in range(count)]
    elif isinstance(names, str) or len(names) != count:
        refuse("names", f"a list of {count} names", repr(names))
    if check:
        raise_on_failure(inverses.status.flatten(), inverses.damping.flatten(), names)
    return inverses


def _inverse_of_list(
    hessians: Sequence[Tensor], damping: float, block_size: int | None
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    for hessian in hessians:
        _check_inverse_hessian(hessian[None], damping, block_size)
    alike = len({(one.dtype, one.device) for one in hessians}) == 1
    device = hessians[0].device
    # The operator takes one matrix, or several alike. Whatever only stands for tensors goes there.
    real = all(type(one) in (Tensor, torch.nn.Parameter) for one in hessians)
    if alike and real and device.type in ("cpu", "cuda") and not torch.compiler.is_compiling():
        with exact_products(device):
            return ragged.inverse_hessians(hessians, damping, block_size)
    results = [_inverse_hessian(one[None], damping, block_size) for one in hessians]
    damping_used, status, condition = (torch.cat([one[i] for one in results]) for i in (1, 2, 3))
    return [one[0][0] for one in results], damping_used, status, condition
