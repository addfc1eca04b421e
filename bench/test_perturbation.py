"""`perturbation` against the torch expression of method.md (4), and on a CPU against torch."""

from collections.abc import Callable

import pytest
import torch

from bench.conftest import Race
from bench.perturbation import CASES
from bench.timing import normal
from hcnr_kernels.checks import Axis
from hcnr_kernels.ops.perturbation import vectorised


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, run_case: Callable[..., None]) -> None:
    run_case(CASES[name])


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extension_against_torch(
    dtype: torch.dtype, axis: Axis, race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of the compiled extension beside those of torch, of every neuron."""
    cpu = torch.device("cpu")
    base, tuned = (normal(4608, 1536, device=cpu, dtype=dtype, seed=seed) for seed in (1, 2))
    if vectorised.sums_of_squares(base, tuned, axis) is None:
        pytest.skip("the compiled extension is not there, or was built before it had the sums")
    mask = torch.ones(base.shape[0 if axis == "output" else 1], dtype=torch.bool)

    def by_torch() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(vectorised, "sums_of_squares", lambda *_: None)
            vectorised.perturbation(base, tuned, mask, axis)

    race(
        f"perturbation 4608 x 1536, {str(dtype).removeprefix('torch.')}, {axis} axis",
        {"extension": lambda: vectorised.perturbation(base, tuned, mask, axis), "torch": by_torch},
        busy=True,
    )
