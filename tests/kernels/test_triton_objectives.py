"""Triton kernel of both objectives, interpreted on the CPU, and the halves that it multiplies."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from hcnr_kernels.ops.compensation import half_product
from hcnr_kernels.ops.compensation import triton as fused
from hcnr_kernels.testing.tensors import alternate, curvature, randn
from hcnr_kernels.triton import launch, tiles
from hcnr_kernels.triton.launch import recording

pytestmark = pytest.mark.usefixtures("poisoned")

interpreted = pytest.mark.skipif(
    not launch.interpreting(), reason="needs TRITON_INTERPRET=1: there is no GPU to run kernels on"
)
OFF = 2.0**-17
"""What an entry of E may move by, as a share of it."""


def exact(rows: Tensor, hessian: Tensor) -> float:
    wide = rows.double()
    return float(((hessian.double() @ wide) * wide).sum())


def lost(neurons: int, lines: int, share: float) -> tuple[Tensor, Tensor]:
    """`E [neurons, lines]` along one direction that H all but lacks: a cancelling sum."""
    direction = randn(neurons, 1, device="cpu", dtype=torch.float64, seed=5)
    direction /= direction.norm()
    keep = torch.eye(neurons, dtype=torch.float64) - (1 - share) * direction @ direction.T
    hessian = keep @ curvature(neurons, device="cpu", dtype=torch.float64) @ keep
    rows = direction @ randn(1, lines, device="cpu", dtype=torch.float64, seed=6)
    return rows.float(), hessian.float()


@pytest.mark.parametrize("shape", [(1, 1), (17, 63), (130, 16), (32, 48)])
@pytest.mark.parametrize("by_line", [True, False])
def test_two_halves_are_the_deviation_and_padding_is_zero(
    shape: tuple[int, int], by_line: bool
) -> None:
    sizes = 10.0 ** (torch.arange(shape[1]) % 19 - 9)
    rows = randn(*shape, device="cpu", dtype=torch.float32) * sizes
    rows = rows if by_line else rows.T.contiguous().T
    high, low = fused.halves(rows)
    if shape != (1, 1):
        assert high.stride() == low.stride() and high.stride(1 if by_line else 0) == 1
    assert all(size % 16 == 0 for size in high.shape)
    both = high.double() + low.double()
    inside = both[: shape[0], : shape[1]]
    assert bool(((inside - rows.double()).abs() <= OFF * rows.double().abs()).all())
    # The first half alone is not nearly enough.
    assert bool(((high[: shape[0], : shape[1]].double() - rows).abs() > OFF * rows.abs()).any())
    both[: shape[0], : shape[1]] = 0
    assert both.count_nonzero() == 0


@interpreted
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("neurons", [1, 127, 128, 129, 300])
def test_parts_of_the_lines_add_up(
    axis: str, neurons: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = randn(neurons, 70, device="cpu", dtype=torch.float32)
    hessian, mask = (
        curvature(neurons, device="cpu", dtype=torch.float32),
        alternate(neurons, "cpu"),
    )
    deviation = rows if axis == "output" else rows.T
    want = exact(rows * ~mask[:, None], hessian), exact(rows, hessian)
    for most in (16, 48, 1024):
        monkeypatch.setattr(tiles, "OBJECTIVE_LINES", most)
        found = fused.objectives(deviation, mask, hessian, axis)
        assert [float(one) for one in found] == pytest.approx(want, rel=8e-6)


@interpreted
def test_a_sum_that_cancels_is_that_of_a_deviation_nearby() -> None:
    """In the norm of H: `| |E'| - |E| | <= |E' - E|`, and no entry of E' is far from E."""
    rows, hessian = lost(200, 90, 1e-2)
    want = exact(rows, hessian)
    assert want < 2e-4 * float((hessian.diagonal()[:, None] * rows**2).sum())
    nothing = torch.zeros(200, dtype=torch.bool)
    none, found = fused.objectives(rows, nothing, hessian, "output")
    assert float(none) == pytest.approx(float(found), rel=1e-12)
    largest = float(torch.linalg.eigvalsh(hessian.double())[-1])
    apart = OFF * largest**0.5 * float(rows.double().norm())
    # Products are rounded to fp32 and added along a row of a square.
    rounding = 1e-7 * largest * float(rows.double().norm()) ** 2
    assert abs(float(found) - want) <= 2 * want**0.5 * apart + apart**2 + rounding
    assert float(found) == pytest.approx(want, rel=1e-3)
    # One bf16 number would not do, nor three of the four products.
    high, low = (half[:200, :90] for half in fused.halves(rows))
    assert exact(high, hessian) > 1.02 * want and exact(low, hessian) > 0.02 * want


@interpreted
def test_what_is_beside_the_lower_triangle_is_not_looked_at() -> None:
    rows = randn(150, 20, device="cpu", dtype=torch.float32)
    hessian, mask = curvature(150, device="cpu", dtype=torch.float32), alternate(150, "cpu")
    want = fused.objectives(rows, mask, hessian, "output")
    poisoned = hessian.tril() + torch.full_like(hessian, torch.nan).triu(1)
    assert torch.equal(
        torch.stack(want), torch.stack(fused.objectives(rows, mask, poisoned, "output"))
    )


def test_few_launches_and_little_memory() -> None:
    """Three launches for 1024 lines: both halves, and the products."""
    for neurons, lines, kernels in ((4096, 14336, 14), (14336, 4096, 4), (28672, 8192, 15)):
        arguments = (
            torch.empty(lines, neurons, device="meta"),
            torch.empty(neurons, dtype=torch.bool, device="meta"),
            torch.empty(neurons, neurons, device="meta"),
            "input",
        )
        with recording(90) as seen:
            fused.objectives(*arguments)
        assert len(seen) == kernels
        for one in seen:
            high, low = one.arguments["p_high"], one.arguments["p_low"]
            assert high.nbytes + low.nbytes <= 64 * 2**20
            assert high.numel() < 2**31


def test_the_torch_code_equals_float64_for_every_division(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = randn(61, 40, device="cpu", dtype=torch.float32)
    hessian, mask = curvature(61, device="cpu", dtype=torch.float32), alternate(61, "cpu")
    want = exact(rows * ~mask[:, None], hessian), exact(rows, hessian)
    for panels in (1, 2, 7, 61, 100):
        monkeypatch.setattr(half_product, "PANELS", panels)
        found = half_product.objectives(rows, mask, hessian, "output")
        assert [float(one) for one in found] == pytest.approx(want, rel=1e-5)
