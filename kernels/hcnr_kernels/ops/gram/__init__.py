"""Second moments of tokens: method.md (5), accumulated in fp32."""

import torch
from torch import Tensor

from hcnr_kernels.checks import ACCUMULATORS, beside, floating, shaped, typed
from hcnr_kernels.library import operator
from hcnr_kernels.ops.gram import vectorised

_TRITON = f"{__name__}.triton"


def _check_gram_(gram: Tensor, x: Tensor) -> None:
    """Arguments of `gram_`."""
    floating("x", x, 2, "[tokens, width]")
    typed("gram", gram, ACCUMULATORS)
    shaped("gram", gram, (x.shape[1], x.shape[1]))
    beside("gram", gram, x)


_gram_ = operator(
    "gram_(Tensor(a!) gram, Tensor x) -> ()",
    check=_check_gram_,
    kernel=vectorised.gram_,
    triton=_TRITON,
)


@torch.no_grad()
def gram_(gram: Tensor, x: Tensor) -> Tensor:
    """Method.md (5) without the 1/n: `gram += x^T x`, accumulated in fp32 whatever the dtype of x.

    Only the lower triangle of `gram [d, d]` is meaningful; the strict upper one is unspecified
    until `symmetrize_`. Returns `gram`.
    """
    _gram_(gram, x)
    return gram


def _check_symmetrize_(gram: Tensor) -> None:
    """Arguments of `symmetrize_`."""
    floating("gram", gram, 2, "[width, width]")
    shaped("gram", gram, (gram.shape[0], gram.shape[0]))


_symmetrize_ = operator(
    "symmetrize_(Tensor(a!) gram) -> ()",
    check=_check_symmetrize_,
    kernel=vectorised.symmetrize_,
    triton=_TRITON,
)


@torch.no_grad()
def symmetrize_(gram: Tensor) -> Tensor:
    """Copy the lower triangle of `gram [d, d]` onto the upper one; returns `gram`."""
    _symmetrize_(gram)
    return gram
