"""Every operator of the registry, checked against its twin, then timed on its large input."""

from collections.abc import Callable

import pytest
import torch

from hcnr_kernels.testing.registry import OPERATORS

CASES = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for name, row in OPERATORS.items()
    for dtype in row.dtypes
    if dtype != torch.float64
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_operator(
    name: str, dtype: torch.dtype, run_operator: Callable[[str, torch.dtype], None]
) -> None:
    run_operator(name, dtype)
