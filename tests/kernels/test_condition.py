"""Lower bounds of the condition number, against the exact one."""

import pytest
import torch

from hcnr_kernels.ops.inverse import factor
from hcnr_kernels.ops.inverse.condition import bound_of_rows, condition_bound
from hcnr_kernels.testing.tensors import curvature


@pytest.mark.parametrize("width", [1, 2, 9, 40])
@pytest.mark.parametrize("seed", range(5))
def test_condition_estimate_is_a_close_lower_bound(width: int, seed: int) -> None:
    matrix = curvature(width, device="cpu", dtype=torch.float64, seed=seed)
    exact = float(torch.linalg.cond(matrix, 1))
    root = torch.linalg.cholesky(matrix)
    norm = torch.linalg.matrix_norm(matrix, 1)[None]
    nothing = torch.zeros(1, 1, width, dtype=torch.bool)
    found = float(condition_bound(lambda b: torch.cholesky_solve(b, root), norm, nothing)[0])
    assert exact / 3 <= found <= exact * (1 + 1e-14 * exact)


@pytest.mark.parametrize("width", [2, 9, 40, 150])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weak", ["none", "restored", "task"])
def test_rows_of_the_inverse_give_a_close_lower_bound(width: int, seed: int, weak: str) -> None:
    """Also where one neuron alone, in the rows or not, decides; a dead one does not count."""
    matrix, split = curvature(width, device="cpu", dtype=torch.float64, seed=seed), width // 2
    if weak != "none":
        place = 0 if weak == "restored" else width - 1
        matrix[place], matrix[:, place] = 0, 0
        matrix[place, place] = 1e-4
    matrix = torch.block_diag(matrix, torch.zeros(1, 1, dtype=matrix.dtype))
    unit = torch.arange(width + 1) == width
    exact = float(torch.linalg.cond(matrix[:-1, :-1], 1))
    norm = torch.linalg.matrix_norm(matrix[:-1, :-1], 1)[None]
    found = factor.cholesky_(matrix + torch.diag(unit.double()), factor.CPU_TILING, split)
    corners = [found.corners[first] for first, _ in found.tiles(0, split)]
    rows = factor.inverse_rows_(found, split, factor.CPU_TILING)
    bound = float(bound_of_rows(rows, corners, norm, unit))
    assert exact / 4 <= bound <= exact * (1 + 1e-14 * exact)
