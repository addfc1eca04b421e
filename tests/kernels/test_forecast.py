"""The forecast of what a task weight costs, against dense float64 quadratic forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hcnr_kernels as hk
from hcnr_kernels.ops.spectral.forecast import BINS, TaskEnergy
from spectra import F64, basis_of, damped, kronecker, problem


def dense_loss(basis: hk.SpectralBasis, delta: torch.Tensor, task: torch.Tensor, mu: float):
    rest = (basis.deviation(mu).double() - delta).flatten()
    return float(rest @ task @ rest)


@settings(max_examples=40, deadline=None)
@given(out=st.integers(1, 7), width=st.integers(1, 7), tokens=st.integers(2, 12))
def test_equals_the_dense_form_within_a_bin(out: int, width: int, tokens: int) -> None:
    delta, quartet = problem(out, width, tokens)
    _, task = kronecker(quartet)
    basis = basis_of(delta, quartet)
    energy = basis.task_energy()
    # An eigenvalue is moved by half a bin at most, and the form by twice that share of it.
    bound = 10 ** (2 / 16) - 1
    for mu in (0.01, 0.3, 1.0, 20.0):
        want = dense_loss(basis, delta, task, mu)
        assert energy.lost(mu) == pytest.approx(want, rel=bound)
    assert energy.lost(0.0) == pytest.approx(dense_loss(basis, delta, task, 0.0), rel=1e-6)


@pytest.mark.parametrize("route", ["tokens", "dense"])
def test_the_span_of_few_tokens_says_the_same(route: str) -> None:
    delta, quartet = problem(40, 30, tokens=3)
    basis = basis_of(delta, quartet)
    if route == "tokens":
        rows = [torch.randn(3, width, dtype=F64, generator=torch.Generator().manual_seed(seed))
                for seed, width in ((1, 30), (2, 40), (3, 30), (4, 40))]  # fmt: skip
        near, near_g, far, far_g = (hk.Tokens(one) for one in rows)
        basis = hk.spectral_basis(delta, (near, near_g), (far, far_g))
        first, second, third, fourth = (one.T @ one for one in rows)
        quartet = first, second, third, fourth
    assert basis.routes == (route, route)
    task = torch.kron(damped(quartet[3]), damped(quartet[2]))
    for mu in (0.0, 0.1, 3.0):
        want = dense_loss(basis, delta, task, mu)
        assert basis.task_energy().lost(mu) == pytest.approx(want, rel=0.34)


def test_it_falls_with_the_weight_and_adds_up() -> None:
    delta, quartet = problem(6, 5, 20)
    energy = basis_of(delta, quartet).task_energy()
    lost = [energy.lost(10.0**place) for place in range(-6, 7)]
    assert all(left > right for left, right in itertools.pairwise(lost))
    twice = TaskEnergy(energy.energy + energy.energy)
    assert twice.lost(0.7) == pytest.approx(2 * energy.lost(0.7))


def test_eigenvalues_are_the_centres_of_the_bins() -> None:
    values = TaskEnergy.eigenvalues()
    assert len(values) == BINS
    assert values[0] == pytest.approx(1e-12) and values[-1] == pytest.approx(1e12)
    assert math.log10(values[1] / values[0]) == pytest.approx(1 / 8)
