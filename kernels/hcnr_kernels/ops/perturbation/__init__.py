"""Sums of squares of the fine-tuning change and of the base weights: method.md (4)."""

import torch
from torch import Tensor

from hcnr_kernels.checks import Axis, neurons, pair
from hcnr_kernels.library import operator
from hcnr_kernels.ops.perturbation import vectorised

_TRITON = f"{__name__}.triton"


def _check_perturbation(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> None:
    """Arguments of `perturbation`."""
    pair(base, tuned)
    neurons(mask[0] if mask.dim() == 2 and len(mask) else mask, base, axis)


_perturbation = operator(
    "perturbation(Tensor base, Tensor tuned, Tensor mask, str axis) -> (Tensor, Tensor)",
    check=_check_perturbation,
    kernel=vectorised.perturbation,
    fake=lambda base, _, mask, *__: tuple(
        base.new_empty(mask.shape[:-1], dtype=torch.float32) for _ in range(2)
    ),
    triton=_TRITON,
    native=True,
)


@torch.no_grad()
def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, *, axis: Axis) -> tuple[Tensor, Tensor]:
    """The two sums of squares of method.md (4): `||(W0 - W1) M||^2` and `||W0 M||^2`.

    Args:
        base: W0 `[out, in]`.
        tuned: W1 `[out, in]`.
        mask: `[d']` bool, candidate neurons; or several masks `[m, d']`, for which both weights are
            read once.
        axis: The neuron axis.

    Returns:
        Two 0-d fp32 tensors, `[m]` each for several masks, accumulated in float64; their ratio is
        the square of `d_j`.
    """
    return _perturbation(base, tuned, mask, axis)
