"""How exact an operator must be, and how that is measured."""

from collections.abc import Mapping

import torch
from torch import Tensor

TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-5,
    torch.float16: 1e-5,
}
"""RMS error over RMS value against float64 on the same inputs, by input dtype.

Low-precision inputs are widened exactly and accumulated in fp32, so they earn no allowance.
"""

TENSOR_CORES = 3e-4
"""The same on a GPU for 16-bit inputs and long sums: tensor cores cut off the low bits of a running
sum, about 5e-9 of it per product added, alike for all neurons (published models of them)."""

SOLVE_TOLERANCES: Mapping[torch.dtype, float] = {**TOLERANCES, torch.float32: 1e-4}
"""The same for factorisations: fp32 rounding times the condition of the samples, about 1e3."""


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of what is expected, in float64; NaN must meet NaN."""
    got, want = actual.detach().double().cpu(), expected.detach().double().cpu()
    if got.shape != want.shape or not torch.equal(got.isnan(), want.isnan()):
        return float("inf")
    difference, scale = (got - want).nan_to_num().norm(), want.nan_to_num().norm()
    return float(difference / scale) if scale > 0 else float(difference)
