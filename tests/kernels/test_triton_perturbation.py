"""The Triton kernel of the perturbation norms, interpreted on the CPU."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")


from hcnr_kernels.ops.perturbation.triton import perturbation
from hcnr_kernels.testing.tensors import randn
from hcnr_kernels.triton import launch, tiles
from hcnr_kernels.triton.tiles import Tile
from layouts import LAYOUTS, SIZES, masks

pytestmark = pytest.mark.usefixtures("poisoned")

interpreted = pytest.mark.skipif(
    not launch.interpreting(), reason="needs TRITON_INTERPRET=1: there is no GPU to run kernels on"
)

FLOATS = launch.FLOATS


def norms(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> list[float]:
    first, second = base.double(), tuned.double()
    if axis == "input":
        first, second = first.T, second.T
    return [float((first - second)[mask].square().sum()), float(first[mask].square().sum())]


@interpreted
@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    axis=st.sampled_from(["output", "input"]),
    chosen=st.sampled_from(["half", "none", "all", "view"]),
    dtypes=st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
)
def test_perturbation(
    size: tuple[int, int],
    axis: str,
    chosen: str,
    dtypes: tuple[torch.dtype, torch.dtype],
    layouts: tuple[Callable, Callable],
) -> None:
    rows, columns = size
    base = randn(rows, columns, device="cpu", dtype=dtypes[0], seed=1)
    tuned = randn(rows, columns, device="cpu", dtype=dtypes[1], seed=2)
    mask = masks(rows if axis == "output" else columns)[chosen]
    want = norms(base, tuned, mask, axis)
    for weight, bad in ((base, torch.nan), (tuned, torch.inf)):
        (weight if axis == "output" else weight.T)[~mask] = bad
    change, whole = perturbation(layouts[0](base), layouts[1](tuned), mask, axis)
    assert change.dtype == whole.dtype == torch.float32 and change.dim() == whole.dim() == 0
    assert [float(change), float(whole)] == pytest.approx(want, rel=2e-7)
    assert change.data_ptr() != whole.data_ptr()


@interpreted
def test_perturbation_takes_every_candidate_into_account() -> None:
    base = torch.tensor([[1.0, torch.nan, 2.0]])
    change, whole = perturbation(base, torch.zeros(1, 3), torch.ones(3).bool(), "input")
    assert change.isnan() and whole.isnan()


@interpreted
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("axis", ["output", "input"])
def test_perturbation_of_nothing(shape: tuple[int, int], axis: str) -> None:
    base = torch.zeros(shape)
    mask = torch.ones(shape[axis == "input"], dtype=torch.bool)
    assert [float(value) for value in perturbation(base, base, mask, axis)] == [0.0, 0.0]


@interpreted
def test_perturbation_accumulates_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of 2^24 in fp32 would not grow by the small ones; several steps of the second stage."""
    monkeypatch.setattr(tiles, "stream_tile", lambda *_: Tile(2, 4, 1, 4, 1))
    add = tiles.PERTURBATION_ADD._replace(n=16)
    monkeypatch.setattr(tiles, "PERTURBATION_ADD", add)
    base = 0.4 + 0.1 * randn(500, 3, device="cpu", dtype=torch.float32).sigmoid()
    base[0] = 4096
    mask = torch.ones(500, dtype=torch.bool)
    found = perturbation(base, -base, mask, "output")
    assert [float(value) for value in found] == pytest.approx(
        norms(base, -base, mask, "output"), rel=1e-7
    )
    assert torch.equal(torch.stack(found), torch.stack(perturbation(base, -base, mask, "output")))


@interpreted
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("shape", [(1, 1), (17, 130), (13, 1301)])
def test_several_masks_are_each_its_own(axis: str, shape: tuple[int, int]) -> None:
    base, tuned = (randn(*shape, device="cpu", dtype=torch.bfloat16, seed=s) for s in (1, 2))
    half = torch.arange(shape[axis == "input"]) % 3 == 0
    several = torch.stack([half, ~half, half & False, half | True])
    want = [norms(base, tuned, mask, axis) for mask in several]
    for layout in (several, several.T.contiguous().T):
        found = torch.stack(perturbation(base, tuned, layout, axis), 1)
        assert found.shape == (4, 2)
        for one, exact in zip(found.tolist(), want, strict=True):
            assert one == pytest.approx(exact, rel=1e-6)
    (base if axis == "output" else base.T)[half] = torch.nan
    change, whole = perturbation(base, tuned, several, axis)
    for found in (change, whole):
        assert found.isnan().tolist() == [True, False, False, True]
        assert float(found[1]) == pytest.approx(want[1][0 if found is change else 1], rel=1e-6)


def test_two_launches_for_any_number_of_masks() -> None:
    base, tuned = (torch.empty(4096, 14336, dtype=torch.bfloat16, device="meta") for _ in range(2))
    for count in (1, 3, 17):
        mask = torch.empty(count, 4096, dtype=torch.bool, device="meta")
        with launch.recording(90) as seen:
            perturbation(base, tuned, mask, "output")
        assert len(seen) == 2
        assert seen[0].grid == 14 * 256 and seen[1].grid == count
