"""Lower bounds of the condition number, against the exact one."""

import functools

import pytest
import torch
from torch import Tensor

from bench.tracking.counting import count
from hcnr_kernels.ops.inverse import factor
from hcnr_kernels.ops.inverse.condition import condition_bound, starts
from hcnr_kernels.ops.inverse.solves import _equal_panels, solver_of
from hcnr_kernels.ops.inverse.tiling import CPU_TILING, GPU_TILING, Tiling
from hcnr_kernels.testing.tensors import curvature, randn
from hcnr_kernels.triton.launch import recording

F64 = torch.float64


def estimated(matrix: Tensor, unit: Tensor | None = None) -> float:
    """The bound over neurons that are not `unit`, whose damped diagonal is one."""
    unit = torch.zeros(len(matrix), dtype=torch.bool) if unit is None else unit
    live = matrix[~unit][:, ~unit]
    root = torch.linalg.cholesky(matrix)
    norm = torch.linalg.matrix_norm(live, 1)[None]
    solve = lambda rows: torch.cholesky_solve(rows.mT, root).mT  # noqa: E731
    return float(condition_bound(solve, norm, unit[None, None])[0])


def tiled(matrix: Tensor, tiling: Tiling, split: int = 0) -> float:
    """The same as the compensation has it: from the factor by tiles and panels."""
    lower_only = matrix.tril() + torch.full_like(matrix, torch.nan).triu(1)
    found = factor.cholesky_(lower_only, tiling, split)
    unit = torch.zeros(1, 1, len(matrix), dtype=torch.bool)
    norm = torch.linalg.matrix_norm(matrix, 1)[None]
    return float(condition_bound(solver_of(found, tiling), norm, unit)[0])


def spectrum(values: Tensor, seed: int = 7) -> Tensor:
    basis = torch.linalg.qr(randn(len(values), len(values), device="cpu", dtype=F64, seed=seed))[0]
    matrix = basis @ values.diag() @ basis.T
    return (matrix + matrix.T) / 2


def without(direction: Tensor, share: float, matrix: Tensor) -> Tensor:
    """`matrix` with all but a share of one direction taken out of it."""
    direction = (direction / direction.norm())[:, None]
    keep = torch.eye(len(matrix), dtype=F64) - (1 - share) * direction @ direction.T
    return keep @ matrix @ keep


def hard(width: int) -> dict[str, Tensor]:
    """Matrices whose condition one start, few columns or a smooth spectrum would not show."""
    base = curvature(width, device="cpu", dtype=F64)
    twins, quiet, half = (torch.zeros(width, dtype=F64) for _ in range(3))
    twins[width // 3], twins[width // 2] = 1, -1
    half[: width // 2] = randn(width // 2, device="cpu", dtype=F64, seed=4)
    quiet[width - 2] = 1
    plain = torch.ones(width, dtype=F64)
    plain[0] = 0.5
    few = torch.ones(width, dtype=F64)
    few[-3:] = torch.tensor([1e-3, 1e-5, 1e-6])
    place = torch.arange(width, dtype=F64)
    return {
        "identity": torch.eye(width, dtype=F64),
        "graded": (10.0 ** torch.linspace(0, -6, width, dtype=F64)).diag(),
        "even spectrum": spectrum(torch.logspace(0, -6, width, dtype=F64)),
        "few small": spectrum(few),
        "one large": spectrum(few.reciprocal()),
        "twins": without(twins, 1e-4, plain.diag()),
        "twins among others": without(twins, 1e-4, base),
        "in the restored half": without(half, 1e-5, base),
        "one neuron": without(quiet, 1e-4, base),
        "near ones alike": torch.exp(-(((place[:, None] - place) / 2) ** 2))
        + 1e-6 * torch.eye(width, dtype=F64),
    }


@pytest.mark.parametrize("width", [1, 2, 9, 40])
@pytest.mark.parametrize("seed", range(5))
def test_condition_estimate_is_a_close_lower_bound(width: int, seed: int) -> None:
    matrix = curvature(width, device="cpu", dtype=F64, seed=seed)
    exact = float(torch.linalg.cond(matrix, 1))
    assert exact / 3 <= estimated(matrix) <= exact * (1 + 1e-14 * exact)


@pytest.mark.parametrize("kind", list(hard(8)))
@pytest.mark.parametrize("width", [12, 97, 300])
def test_hard_spectra_are_bounded_from_below_and_closely(kind: str, width: int) -> None:
    matrix = hard(width)[kind]
    exact = float(torch.linalg.cond(matrix, 1))
    assert exact / 3 <= estimated(matrix) <= exact * (1 + 1e-14 * exact)


def test_one_start_would_not_see_twins() -> None:
    """What the second start is for: in a plain average the difference of two neurons cancels."""
    matrix = hard(97)["twins"]
    root = torch.linalg.cholesky(matrix)
    average = torch.full((97, 1), 1 / 97, dtype=F64)
    first = torch.cholesky_solve(average, root)
    slopes = torch.cholesky_solve(torch.copysign(torch.ones_like(first), first), root).abs()
    column = torch.cholesky_solve(torch.eye(97, dtype=F64)[:, [int(slopes.argmax())]], root)
    norm = float(torch.linalg.matrix_norm(matrix, 1))
    exact = float(torch.linalg.cond(matrix, 1))
    assert norm * float(column.abs().sum()) < 1e-4 * exact <= 1e-3 * estimated(matrix)


@pytest.mark.parametrize("kind", ["even spectrum", "twins among others", "in the restored half"])
def test_the_factor_by_panels_gives_the_same_bound(kind: str) -> None:
    matrix = hard(300)[kind]
    exact = float(torch.linalg.cond(matrix, 1))
    want = estimated(matrix)
    for whole in (False, True):
        for tiling in (Tiling(16, 64, 24), Tiling(7, 50, 5), CPU_TILING):
            for split in (0, 150, 37):
                found = tiled(matrix, tiling._replace(whole_panels=whole), split)
                assert found == pytest.approx(want, rel=1e-13 * exact + 1e-9)


def test_fp32_keeps_the_bound() -> None:
    for kind, matrix in hard(300).items():
        single = matrix.float()
        exact = float(torch.linalg.cond(single.double(), 1))
        if not exact < 1e8:  # fp32 cannot factorise it
            continue
        tiling = Tiling(16, 64, 24, whole_panels=True)
        unit = torch.zeros(1, 1, 300, dtype=torch.bool)
        solve = solver_of(factor.cholesky_(single.clone(), tiling), tiling)
        norm = torch.linalg.matrix_norm(single, 1)[None]
        found = float(condition_bound(solve, norm, unit)[0])
        assert exact / 3 <= found <= exact * (1 + 1e-6 * exact), kind


def test_neurons_with_a_unit_pivot_count_for_nothing() -> None:
    live = hard(40)["even spectrum"]
    for scale in (1e-6, 1e6):
        matrix = torch.block_diag(torch.eye(3, dtype=F64), scale * live, torch.eye(2, dtype=F64))
        unit = torch.ones(45, dtype=torch.bool)
        unit[3:43] = False
        exact = float(torch.linalg.cond(live, 1))
        assert exact / 3 <= estimated(matrix, unit) <= exact * (1 + 1e-14 * exact)
    assert estimated(torch.eye(5, dtype=F64), torch.ones(5, dtype=torch.bool)) == 0


def test_starts_are_averages_of_live_columns() -> None:
    live = (torch.arange(2 * 3 * 11).reshape(2, 3, 1, 11) % 4 != 0).double()
    live[0, 1] = 0
    found = starts(live)
    sums = found.abs().sum(-1)
    assert torch.equal(found * live, found)
    for b, m in ((b, m) for b in range(2) for m in range(3)):
        want = [0.0, 0.0] if (b, m) == (0, 1) else [1.0, 1.0]
        assert sums[b, m].tolist() == pytest.approx(want)


@pytest.mark.parametrize("width", [16, 64, 256, 272, 264])
def test_equal_panels_are_put_together_at_once(width: int) -> None:
    """Four panels of four tiles, a tile alone behind them, tiles of unequal widths."""
    matrix, tiling = spectrum(torch.logspace(0, -4, width, dtype=F64)), Tiling(16, 64, 24)
    found = factor.cholesky_(matrix.clone(), tiling)
    equal = len({high - low for low, high in found.tiles(0, width)}) == 1
    assert equal == (width != 264)
    panels = width // 64 if width >= 64 else 1
    assert len(_equal_panels(found, list(found.panels(64)))) == (panels if equal else 0)
    right = randn(2, width, device="cpu", dtype=F64)
    want = torch.linalg.solve(matrix, right, left=False)
    solve = solver_of(found, tiling._replace(whole_panels=True))
    torch.testing.assert_close(solve(right.clone()), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("width", "most", "joint"), [(1024, 30, 38), (4096, 70, 56), (14336, 200, 116)]
)
def test_it_starts_few_launches_on_a_gpu(width: int, most: int, joint: int) -> None:
    """Beside rows of the inverse, and, for half of the neurons, beside a factor alone."""
    for size, rows, limit in ((width, True, most), (width // 2, False, joint)):
        with recording(90):
            matrix = torch.empty(size, size, device="meta")
            found = factor.cholesky_(matrix, GPU_TILING, size // 2, rows=rows)
        unit = torch.empty(1, 1, size, dtype=torch.bool, device="meta")
        norm = torch.empty(1, device="meta")
        call = functools.partial(lambda one, *rest: condition_bound(solver_of(one), *rest), found)
        assert count(functools.partial(call, norm, unit)).launches <= limit
