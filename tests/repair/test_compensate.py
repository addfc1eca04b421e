"""The two objectives of a repaired matrix's record."""

import pytest
import torch

from hcnr.repair.compensate import objectives_of
from hcnr_kernels.testing.tensors import alternate, curvature, randn

F64 = torch.float64


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("other", [False, True], ids=["keeps the others", "changes all"])
def test_objectives_of_whatever_a_kind_returns(axis, other):
    """Of one that changes only the restored neurons, and of one that changes the others too."""
    shape = (12, 5) if axis == "output" else (5, 12)
    delta = randn(*shape, device="cpu", dtype=F64, seed=1)
    hessian = curvature(12, device="cpu", dtype=F64, seed=2)
    mask = alternate(12, "cpu")
    changed = torch.ones_like(mask) if other else mask
    place = changed[:, None] if axis == "output" else changed
    deviation = torch.where(place, randn(*shape, device="cpu", dtype=F64, seed=3), delta)
    kept = delta.masked_fill(mask[:, None] if axis == "output" else mask, 0)
    found = objectives_of(delta.clone(), deviation, mask, hessian, axis)
    for one, matrix in zip(found, (kept, deviation), strict=True):
        lines = matrix.T if axis == "output" else matrix
        torch.testing.assert_close(one, torch.trace(lines @ hessian @ lines.T))
