"""method.md (5): the curvature accumulator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hcnr_kernels as hk
from hcnr_kernels.chunks import chunk_length
from hcnr_kernels.ops.gram import vectorised
from hcnr_kernels.testing.accuracy import TOLERANCES, relative_error
from hcnr_kernels.testing.tensors import randn


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(0, 90),
    width=st.integers(1, 300),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_sum_of_outer_products(tokens: int, width: int, dtype: torch.dtype) -> None:
    x = randn(tokens, width, device="cpu", dtype=dtype)
    want = torch.zeros(width, width, dtype=torch.float64)
    for row in x.double():
        want += torch.outer(row, row)
    gram = hk.symmetrize_(hk.gram_(torch.zeros(width, width), x))
    assert relative_error(gram, want) <= TOLERANCES[dtype]
    assert torch.equal(gram, gram.T)


def test_accumulates_in_fp32_over_many_calls() -> None:
    """bf16 sums stop growing at 256; fp32 ones do not."""
    gram = torch.zeros(1, 1)
    for _ in range(10):
        hk.gram_(gram, torch.ones(100, 1, dtype=torch.bfloat16))
    assert gram.item() == 1000


def test_wide_grams_do_about_half_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done = 0
    original = torch.Tensor.addmm_

    def count(self: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += one.shape[0] * one.shape[1] * two.shape[1]
        return original(self, one, two)

    monkeypatch.setattr(torch.Tensor, "addmm_", count)
    vectorised.gram_(torch.zeros(4096, 4096), torch.ones(2, 4096))
    assert done < 0.55 * 2 * 4096**2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_chunks_do_not_change_the_sum(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = randn(50, 40, device="cpu", dtype=dtype)
    monkeypatch.setattr(vectorised, "chunk_length", lambda row: chunk_length(row, budget=600))
    monkeypatch.setattr(vectorised, "GRAM_TILE", 7)
    gram = hk.symmetrize_(hk.gram_(torch.zeros(40, 40), x))
    assert relative_error(gram, x.double().T @ x.double()) <= 1e-6


@pytest.mark.parametrize("width", [1, 2, 255, 256, 257, 600])
def test_symmetrize_copies_the_lower_triangle(width: int) -> None:
    gram = randn(width, width, device="cpu", dtype=torch.float32)
    lower = gram.tril()
    gram.masked_fill_(torch.ones(width, width).triu(1).bool(), torch.nan)
    hk.symmetrize_(gram)
    assert torch.equal(gram, lower + lower.tril(-1).T)
