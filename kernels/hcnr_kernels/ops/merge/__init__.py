"""Final weights of method.md (14): restored neurons from base and deviation, the others tuned."""

import torch
from torch import Tensor

from hcnr_kernels.checks import Axis, beside, floating, neurons, pair, refuse, shaped
from hcnr_kernels.library import operator
from hcnr_kernels.ops.merge import vectorised

_TRITON = f"{__name__}.triton"


def _check_merge(
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    deviation: Tensor | None,
    axis: str,
    dtype: torch.dtype,
) -> None:
    """Arguments of `merge`."""
    pair(base, tuned)
    neurons(mask, base, axis)
    if not dtype.is_floating_point:
        refuse("dtype", "a floating-point dtype", dtype)
    if deviation is not None:
        floating("deviation", deviation, 2, "[out, in]")
        shaped("deviation", deviation, base.shape)
        beside("deviation", deviation, base)


_merge = operator(
    "merge(Tensor base, Tensor tuned, Tensor mask, Tensor? deviation, str axis, ScalarType dtype)"
    " -> Tensor",
    check=_check_merge,
    kernel=vectorised.merge,
    fake=lambda base, tuned, mask, deviation, axis, dtype: torch.empty_like(tuned, dtype=dtype),
    triton=_TRITON,
)


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
    """Final weights of method.md (14): `W0 + E` on restored neurons, tuned elsewhere.

    Args:
        base: W0 `[out, in]`.
        tuned: W1 `[out, in]`, kept bit for bit outside the restored slice when `dtype` is its own.
        mask: `[d']` bool, true on restored neurons.
        deviation: E `[out, in]`; None restores base bit for bit.
        axis: The neuron axis.
        dtype: Of the result; `W0 + E` is formed in fp32 and rounded to it once.
    """
    return _merge(base, tuned, mask, deviation, axis, dtype)
