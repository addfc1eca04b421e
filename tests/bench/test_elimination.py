"""The model of a large damped inverse, against the launches that one starts."""

import pytest
import torch

pytest.importorskip("triton")

from bench.tracking import elimination as model
from bench.tracking.counting import kernels_of
from hcnr_kernels.ops.inverse.factor import cholesky_, inverse_rows_, invert_
from hcnr_kernels.ops.inverse.tiling import GPU_TILING


def started(width: int, split: int | None):
    matrix = torch.empty(width, width, device="meta")

    def call() -> None:
        if split == 0:
            invert_(matrix, GPU_TILING)
            return
        found = cholesky_(matrix, GPU_TILING, split or 0, rows=split is not None)
        if split is not None:
            inverse_rows_(found, split, GPU_TILING)

    return kernels_of(call, 90)


@pytest.mark.parametrize("width", [128, 1040, 4096])
@pytest.mark.parametrize("share", [None, 0, 0.5])
def test_the_squares_are_those_of_the_launches(width: int, share: float | None) -> None:
    split = None if share is None else int(share * width)
    launches = started(width, split)
    found = [one.grid - 1 for one in launches if one.kernel.__name__ == "eliminate_kernel"]
    assert found == [0, *model.squares_of(width, split)]
    seconds = model.elimination(width, split)
    # The one more is the count of failures, cleared.
    assert seconds.launches == len(launches) + 1


@pytest.mark.parametrize(("width", "least", "most"), [(4096, 1.0, 1.25), (14336, 1.0, 1.1)])
def test_operations_are_near_those_that_cannot_be_avoided(
    width: int, least: float, most: float
) -> None:
    """`d^3` of an inverse, and what squares on the diagonal and panels take beyond them."""
    costs = [model.cost_of(launch) for launch in started(width, 0)]
    assert least < sum(cost.operations for cost in costs) / width**3 < most


def test_the_targets_are_met_by_the_model() -> None:
    """At least twice as fast as torch; what a card must decide is torch's own factor at 4096."""
    for width in (4096, 8192, 14336):
        ours, torchs = model.elimination(width), model.rival(width)
        assert torchs.model >= 2 * ours.model
        assert ours.model >= width**3 / model.FP32
    assert model.rival(4096).operations < 2 * model.elimination(4096).model
