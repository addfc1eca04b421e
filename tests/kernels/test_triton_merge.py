"""The Triton kernel of the merge, interpreted on the CPU."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")


from hcnr_kernels.ops.merge import vectorised
from hcnr_kernels.ops.merge.triton import merge
from hcnr_kernels.testing.tensors import alternate, randn
from hcnr_kernels.triton import launch
from layouts import INTEGER, LAYOUTS, SIZES, bits, masks

pytestmark = pytest.mark.usefixtures("poisoned")

interpreted = pytest.mark.skipif(
    not launch.interpreting(), reason="needs TRITON_INTERPRET=1: there is no GPU to run kernels on"
)

FLOATS = launch.FLOATS


@interpreted
@settings(max_examples=80, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    axis=st.sampled_from(["output", "input"]),
    chosen=st.sampled_from(["half", "none", "all", "view"]),
    dtypes=st.tuples(*[st.sampled_from(FLOATS)] * 3),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    deviates=st.booleans(),
)
def test_merge(
    size: tuple[int, int],
    axis: str,
    chosen: str,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    layouts: tuple[Callable, Callable, Callable],
    deviates: bool,
) -> None:
    rows, columns = size
    base = layouts[0](randn(rows, columns, device="cpu", dtype=dtypes[0], seed=1))
    tuned = layouts[1](randn(rows, columns, device="cpu", dtype=dtypes[1], seed=2))
    extra = randn(rows, columns, device="cpu", dtype=torch.float32, seed=3)
    deviation = layouts[2](extra) if deviates else None
    mask = masks(rows if axis == "output" else columns)[chosen]
    merged = merge(base, tuned, mask, deviation, axis, dtypes[2])
    restored = mask[:, None] if axis == "output" else mask[None, :]
    own = base if deviation is None else base.float() + deviation
    want = torch.where(restored, own.to(dtypes[2]), tuned.to(dtypes[2]))
    assert torch.equal(bits(merged), bits(want))
    assert (
        merged.stride() == vectorised.merge(base, tuned, mask, deviation, axis, dtypes[2]).stride()
    )


@interpreted
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_merge_copies_bits(axis: str, dtype: torch.dtype) -> None:
    """Every 16-bit pattern: infinities, NaN with their payloads, -0.0, subnormal numbers."""
    patterns = torch.arange(65536, dtype=torch.int32).reshape(256, 256)
    if dtype == torch.float32:
        patterns = patterns * 65537
    base = patterns.to(INTEGER[dtype]).view(dtype)
    tuned = patterns.flip(0).contiguous().to(INTEGER[dtype]).view(dtype)
    mask = alternate(256, "cpu")
    merged = merge(base, tuned, mask, None, axis, dtype)
    restored = mask[:, None] if axis == "output" else mask[None, :]
    assert torch.equal(bits(merged), torch.where(restored, bits(base), bits(tuned)))


@interpreted
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_merge_of_nothing(shape: tuple[int, int]) -> None:
    base, mask = torch.zeros(shape), torch.ones(shape[0], dtype=torch.bool)
    assert merge(base, base, mask, None, "output", torch.float16).shape == shape


@interpreted
def test_merge_does_not_add_what_it_does_not_restore() -> None:
    base = torch.full((4, 4), torch.nan)
    tuned = torch.full((4, 4), -0.0)
    mask = torch.tensor([False, True, False, False])
    deviation = torch.full((4, 4), torch.inf)
    for axis in ("output", "input"):
        merged = merge(base, tuned, mask, deviation, axis, torch.float32)
        kept = (merged if axis == "output" else merged.T)[~mask]
        assert torch.equal(bits(kept), bits(tuned[:3]))
