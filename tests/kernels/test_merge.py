"""The final weights of method.md (14), bit for bit where nothing is to change."""

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.checks import Axis
from hcnr_kernels.chunks import chunk_length
from hcnr_kernels.ops.merge import vectorised
from hcnr_kernels.testing.tensors import alternate, randn

INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(INTEGER[tensor.dtype])


def pair(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    base = randn(63, 40, device="cpu", dtype=dtype, seed=1)
    tuned = randn(63, 40, device="cpu", dtype=dtype, seed=2)
    base[::3] = -0.0
    tuned[1::3] = -0.0
    return base, tuned, randn(63, 40, device="cpu", dtype=torch.float32, seed=3)


def on(axis: Axis, mask: Tensor) -> Tensor:
    return (mask[:, None] if axis == "output" else mask[None, :]).expand(63, 40)


@pytest.mark.parametrize("dtype", INTEGER)
@pytest.mark.parametrize("axis", ["output", "input"])
def test_without_a_deviation_every_bit_is_a_copy(axis: Axis, dtype: torch.dtype) -> None:
    base, tuned, _ = pair(dtype)
    mask = alternate(63 if axis == "output" else 40, "cpu")
    merged = hk.merge(base, tuned, mask, None, axis=axis, dtype=dtype)
    assert torch.equal(bits(merged), torch.where(on(axis, mask), bits(base), bits(tuned)))


@pytest.mark.parametrize("dtype", INTEGER)
@pytest.mark.parametrize("axis", ["output", "input"])
def test_restored_neurons_are_rounded_once(axis: Axis, dtype: torch.dtype) -> None:
    base, tuned, deviation = pair(dtype)
    mask = alternate(63 if axis == "output" else 40, "cpu")
    merged = hk.merge(base, tuned, mask, deviation, axis=axis, dtype=dtype)
    once = (base.float() + deviation).to(dtype)
    assert torch.equal(bits(merged), torch.where(on(axis, mask), bits(once), bits(tuned)))


def test_the_sum_is_not_rounded_before_it_is_complete() -> None:
    """1 + 2^-9 in bf16: two halves of a step, lost one by one, kept together."""
    base, deviation = torch.ones(1, 1, dtype=torch.bfloat16), torch.full((1, 1), 0.005859375)
    mask = torch.ones(1, dtype=torch.bool)
    merged = hk.merge(base, base, mask, deviation, axis="output", dtype=torch.bfloat16)
    assert merged.item() == 1.0078125


def test_another_dtype() -> None:
    base, tuned, deviation = pair(torch.float32)
    mask = alternate(63, "cpu")
    merged = hk.merge(base, tuned, mask, deviation, axis="output", dtype=torch.bfloat16)
    want = torch.where(on("output", mask), base + deviation, tuned).bfloat16()
    assert merged.dtype == torch.bfloat16 and torch.equal(merged, want)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_empty_and_full_masks(axis: Axis) -> None:
    base, tuned, _ = pair(torch.bfloat16)
    mask = torch.zeros(63 if axis == "output" else 40, dtype=torch.bool)
    nothing = hk.merge(base, tuned, mask, None, axis=axis, dtype=torch.bfloat16)
    everything = hk.merge(base, tuned, ~mask, None, axis=axis, dtype=torch.bfloat16)
    assert torch.equal(bits(nothing), bits(tuned))
    assert torch.equal(bits(everything), bits(base))


@pytest.mark.parametrize("axis", ["output", "input"])
def test_chunks_do_not_change_the_result(axis: Axis, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned, deviation = pair(torch.float32)
    mask = alternate(63 if axis == "output" else 40, "cpu")
    want = vectorised.merge(base, tuned, mask, deviation, axis, torch.float32)
    monkeypatch.setattr(vectorised, "chunk_length", lambda row: chunk_length(row, budget=2000))
    assert torch.equal(vectorised.merge(base, tuned, mask, deviation, axis, torch.float32), want)
