"""`gram_` against the full fp32 product; a bf16 product would round what `gram_` keeps."""

from collections.abc import Callable

import pytest
import torch

import hcnr_kernels as hk
from bench.gram import CASES
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import randn


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, run_case: Callable[..., None]) -> None:
    run_case(CASES[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [512, 2048])
def test_against_mm(
    width: int,
    dtype: torch.dtype,
    race: Callable[..., dict[str, float]],
    device: torch.device,
) -> None:
    x = randn(2048, width, device=str(device), dtype=dtype)
    gram, full = torch.zeros(2, width, width, device=device)
    hk.gram_(gram, x)
    assert relative_error(gram.tril(), (x.double().T @ x.double()).tril()) < 1e-5
    race(
        f"gram_ {width}, {dtype}",
        {"gram_": lambda: hk.gram_(gram, x), "mm": lambda: full.addmm_(x.T.float(), x.float())},
        rounds=5,
    )
