"""Lower bounds of the condition number, against the exact one."""

import pytest
import torch

from hcnr_kernels.ops.inverse.condition import condition_bound
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


def test_a_direction_of_many_neurons_that_is_all_but_lost_is_seen() -> None:
    """No single neuron shows it: each has a share of the direction, and pivots as the others."""
    direction = torch.randn(96, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    direction /= direction.norm()
    matrix = curvature(96, device="cpu", dtype=torch.float64)
    keep = torch.eye(96, dtype=torch.float64) - (1 - 1e-5) * direction @ direction.T
    matrix = keep @ matrix @ keep
    exact = float(torch.linalg.cond(matrix, 1))
    root = torch.linalg.cholesky(matrix)
    norm = torch.linalg.matrix_norm(matrix, 1)[None]
    nothing = torch.zeros(1, 1, 96, dtype=torch.bool)
    found = float(condition_bound(lambda b: torch.cholesky_solve(b, root), norm, nothing)[0])
    assert exact > 1e8 and found >= exact / 3
