"""method.md (4): the two sums of squares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hcnr_kernels as hk
from hcnr_kernels.chunks import chunk_length
from hcnr_kernels.ops.perturbation import vectorised
from hcnr_kernels.testing.tensors import alternate, randn


def norms(
    base: torch.Tensor, tuned: torch.Tensor, mask: torch.Tensor, axis: str
) -> tuple[float, float]:
    """The definition with an explicit mask matrix."""
    weight = mask[:, None] if axis == "output" else mask[None, :]
    masked = weight.double().expand(base.shape)
    first, second = base.double(), tuned.double()
    return (
        float(((first - second) * masked).norm() ** 2),
        float((first * masked).norm() ** 2),
    )


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    axis=st.sampled_from(["output", "input"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_equals_the_norms(rows: int, columns: int, axis: str, dtype: torch.dtype) -> None:
    base = randn(rows, columns, device="cpu", dtype=dtype, seed=1)
    tuned = randn(rows, columns, device="cpu", dtype=dtype, seed=2)
    mask = alternate(rows if axis == "output" else columns, "cpu")
    num, den = hk.perturbation(base, tuned, mask, axis=axis)  # pyright: ignore[reportArgumentType]
    assert num.dtype == den.dtype == torch.float32 and num.dim() == den.dim() == 0
    assert (float(num), float(den)) == pytest.approx(norms(base, tuned, mask, axis), rel=1e-6)


def test_accumulates_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand fp32 additions would be off by 1e-5."""
    base = 1 + randn(20000, 3, device="cpu", dtype=torch.float32).sigmoid()
    monkeypatch.setattr(vectorised, "chunk_length", lambda row, budget: 4)
    everything = torch.ones(20000, dtype=torch.bool)
    found = vectorised.perturbation(base, -base, everything, "output")
    want = norms(base, -base, everything, "output")
    assert [float(value) for value in found] == pytest.approx(want, rel=2e-7)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_only_candidates_are_looked_at(axis: str) -> None:
    base, tuned = torch.ones(4, 5), torch.full((4, 5), 3.0)
    mask = torch.arange(4 if axis == "output" else 5) != 2
    poisoned = base.clone()
    (poisoned[2] if axis == "output" else poisoned[:, 2]).fill_(torch.nan)
    found = hk.perturbation(poisoned, tuned, mask, axis=axis)  # pyright: ignore[reportArgumentType]
    count = 15 if axis == "output" else 16
    assert [float(value) for value in found] == [4.0 * count, 1.0 * count]


@pytest.mark.parametrize("axis", ["output", "input"])
def test_chunks_do_not_change_the_sums(axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = randn(63, 40, device="cpu", dtype=torch.float32, seed=1)
    tuned = randn(63, 40, device="cpu", dtype=torch.float32, seed=2)
    mask = alternate(63 if axis == "output" else 40, "cpu")
    monkeypatch.setattr(
        vectorised, "chunk_length", lambda row, budget: chunk_length(row, budget=3000)
    )
    found = vectorised.perturbation(base, tuned, mask, axis)
    assert [float(v) for v in found] == pytest.approx(norms(base, tuned, mask, axis), rel=1e-6)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_both_weights_are_as_they_were(axis: str, dtype: torch.dtype) -> None:
    base, tuned = (randn(9, 7, device="cpu", dtype=torch.float32, seed=s).to(dtype) for s in (1, 2))
    before = base.clone(), tuned.clone()
    mask = alternate(9 if axis == "output" else 7, "cpu")
    found = vectorised.perturbation(base, tuned, mask, axis)
    assert [float(v) for v in found] == pytest.approx(norms(base, tuned, mask, axis), rel=1e-6)
    assert torch.equal(base, before[0]) and torch.equal(tuned, before[1])
