"""The elimination in plain torch, with the rounding of tensor cores."""

import pytest
import torch

from bench.tracking import rounding
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.hard_matrices import spectra


def test_parts_are_those_of_tf32() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    high = rounding.tf32(values)
    assert bool(((high.view(torch.int32) & 0x1FFF) == 0).all())
    assert bool(((values - high).abs() <= 2.0**-11 * values.abs()).all())
    # Of 24 bits 11 are in the first part; the second has those that are left, but for three.
    both = high.double() + rounding.tf32(values - high).double()
    assert bool(((values.double() - both).abs() <= 2.0**-22 * values.abs()).all())
    assert rounding.tf32(torch.tensor([1 + 2.0**-11])).tolist() == [1 + 2.0**-10]


def test_what_is_cut_off_is_never_rounded_up() -> None:
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    single = rounding.cut(values)
    assert bool((single.double().abs() <= values.abs()).all())
    assert bool(((values - single.double()).abs() < 2.0**-23 * values.abs()).all())


@pytest.mark.parametrize("condition", [1e4, 1e6])
@pytest.mark.parametrize("width", [50, 300])
def test_three_products_are_as_exact_as_torch_and_one_is_not(width: int, condition: float) -> None:
    for name, matrix in spectra(width, condition).items():
        torchs, plain, three, off, alone = rounding.errors(((matrix + matrix.T) / 2).float())
        limit = 3 * max(float(torchs), torch.finfo(torch.float32).eps / 16 * condition) + 1e-6
        assert max(map(float, (plain, three, off))) <= limit, name
        assert alone == "fails" or float(alone) > 10 * limit or width == 50, name


def test_the_elimination_is_right_in_float64() -> None:
    matrix = spectra(290, 1e2)["even"]
    found = rounding.inverted(matrix, lambda left, right: left @ right.T)
    assert relative_error(found, torch.linalg.inv(matrix)) < 1e-12
