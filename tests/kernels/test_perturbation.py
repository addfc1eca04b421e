"""method.md (4): the two sums of squares."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import hcnr_kernels as hk
from hcnr_kernels.checks import Axis
from hcnr_kernels.chunks import chunk_length
from hcnr_kernels.native import native, sums_of_squares
from hcnr_kernels.ops.perturbation import vectorised
from hcnr_kernels.testing.tensors import alternate, randn

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WITH_EXTENSION = hasattr(native().module, "sum_squares")
needs_extension = pytest.mark.skipif(not WITH_EXTENSION, reason="no sums in the extension")


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums by torch, whatever was compiled."""
    monkeypatch.setattr(vectorised, "sums_of_squares", lambda *_: None)


@pytest.fixture(params=["torch", pytest.param("extension", marks=needs_extension)])
def backend(request: pytest.FixtureRequest) -> None:
    """Sums by torch, then by the extension."""
    if request.param == "torch":
        request.getfixturevalue("torch_alone")


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


@pytest.mark.usefixtures("backend")
def test_accumulates_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand fp32 additions would be off by 1e-5."""
    base = 1 + randn(20000, 3, device="cpu", dtype=torch.float32).sigmoid()
    monkeypatch.setattr(vectorised, "chunk_length", lambda row, budget: 4)
    everything = torch.ones(20000, dtype=torch.bool)
    found = vectorised.perturbation(base, -base, everything, "output")
    want = norms(base, -base, everything, "output")
    assert [float(value) for value in found] == pytest.approx(want, rel=2e-7)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("axis", ["output", "input"])
def test_only_candidates_are_looked_at(axis: str) -> None:
    base, tuned = torch.ones(4, 5), torch.full((4, 5), 3.0)
    mask = torch.arange(4 if axis == "output" else 5) != 2
    poisoned = base.clone()
    (poisoned[2] if axis == "output" else poisoned[:, 2]).fill_(torch.nan)
    found = hk.perturbation(poisoned, tuned, mask, axis=axis)  # pyright: ignore[reportArgumentType]
    count = 15 if axis == "output" else 16
    assert [float(value) for value in found] == [4.0 * count, 1.0 * count]


@pytest.mark.usefixtures("torch_alone")
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


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_both_weights_are_as_they_were(
    axis: str, every: bool, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    """Also where one of them has the dtype of the differences, and the other has not."""
    base, tuned = (
        randn(9, 7, device="cpu", dtype=torch.float32, seed=seed).to(dtype)
        for seed, dtype in enumerate(dtypes)
    )
    before = base.clone(), tuned.clone()
    mask = alternate(9 if axis == "output" else 7, "cpu") | every
    found = vectorised.perturbation(base, tuned, mask, axis)
    assert [float(v) for v in found] == pytest.approx(norms(base, tuned, mask, axis), rel=1e-6)
    assert torch.equal(base, before[0]) and torch.equal(tuned, before[1])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("axis", ["output", "input"])
def test_several_masks_are_each_its_own(axis: Axis) -> None:
    """Also where a candidate of one mask, and of no other, is not a number."""
    base = randn(63, 40, device="cpu", dtype=torch.float32, seed=1)
    tuned = randn(63, 40, device="cpu", dtype=torch.float32, seed=2)
    width = 63 if axis == "output" else 40
    half = alternate(width, "cpu")
    masks = torch.stack([half, ~half, half & False, half | True])
    (base if axis == "output" else base.T)[int(half.nonzero()[3])] = torch.nan
    found = hk.perturbation(base, tuned, masks, axis=axis)
    for place, mask in enumerate(masks):
        alone = hk.perturbation(base, tuned, mask, axis=axis)
        assert alone[0].dim() == 0 and found[0].shape == found[1].shape == (4,)
        for one, several in zip(alone, found, strict=True):
            assert bool(one.isnan()) == (place in (0, 3))
            torch.testing.assert_close(one, several[place], equal_nan=True)


class Reads(TorchDispatchMode):
    """Counts the elements of bf16 tensors that operations name."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("index_select", "_to_copy"):
            self.read += args[0].numel() * (args[0].dtype == torch.bfloat16)
        return out


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize("axis", ["output", "input"])
def test_weights_are_read_once_for_all_masks(axis: str) -> None:
    base, tuned = (randn(64, 48, device="cpu", dtype=torch.bfloat16, seed=s) for s in (1, 2))
    mask = alternate(64 if axis == "output" else 48, "cpu")
    counts = []
    for masks in (mask, torch.stack([mask, ~mask, mask | True])):
        with Reads() as reads:
            vectorised.perturbation(base, tuned, masks, axis)
        counts.append(reads.read)
    assert 0 < counts[1] <= 2 * counts[0]


def laid(weight: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another memory layout."""
    if layout == "transposed":
        return weight.T.contiguous().T
    if layout == "rows apart":
        return torch.cat([weight, weight], 1)[:, : weight.shape[1]]
    if layout == "columns apart":
        return weight.repeat_interleave(2, 1)[:, ::2]
    if layout == "odd address":
        return torch.cat([weight.new_zeros(1), weight.flatten()])[1:].reshape(weight.shape)
    return weight


@needs_extension
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (65, 33), (130, 2100)], ids=str)
def test_the_extension_adds_up_every_neuron(
    axis: Axis, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    place = 1 if axis == "output" else 0
    layouts = ("plain", "transposed", "rows apart", "columns apart", "odd address")
    for own, other in itertools.product(layouts, layouts):
        base = laid(randn(*shape, device="cpu", dtype=dtype, seed=1), own)
        tuned = laid(randn(*shape, device="cpu", dtype=dtype, seed=2), other)
        sums = sums_of_squares(base, tuned, axis)
        assert sums is not None
        first, second = base.double(), tuned.double()
        want = torch.stack([((first - second) ** 2).sum(place), (first**2).sum(place)])
        torch.testing.assert_close(sums, want, rtol=5e-7, atol=0)


@needs_extension
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["base", "tuned", "both"])
def test_the_extension_passes_on_what_is_not_finite(axis: Axis, bad: float, where: str) -> None:
    base, tuned = torch.ones(5, 37), torch.ones(5, 37)
    for name, weight in (("base", base), ("tuned", tuned)):
        if where in (name, "both"):
            weight[3, 36] = bad
    sums = sums_of_squares(base, tuned, axis)
    assert sums is not None
    bad_neurons = (~sums.isfinite().all(0)).nonzero().flatten().tolist()
    assert bad_neurons == [3 if axis == "output" else 36]


@needs_extension
def test_any_number_of_threads_gives_the_same_sums() -> None:
    base, tuned = (randn(2000, 1100, device="cpu", dtype=torch.bfloat16, seed=s) for s in (1, 2))
    before = torch.get_num_threads()
    for axis in ("output", "input"):
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                found.append(sums_of_squares(base, tuned, axis))
            finally:
                torch.set_num_threads(before)
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_the_extension_does_not_take_is_left_to_torch() -> None:
    floats = torch.ones(3, 4)
    for base, tuned in (
        (floats.half(), floats.half()),
        (floats.double(), floats.double()),
        (floats.bfloat16(), floats),
        (floats[:0], floats[:0]),
        (floats.to("meta"), floats.to("meta")),
    ):
        assert sums_of_squares(base, tuned, "output") is None
