"""The span of few tokens gives what the whole space gives, and says when it cannot."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.errors import FactorizationError
from hcnr_kernels.ops.spectral import token_space
from hcnr_kernels.ops.spectral.span import Symmetric, find_span, left_out
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import randn

F64 = torch.float64
KINDS = ("tokens", "ranked")


def tokens(count: int, width: int, seed: int) -> Tensor:
    return randn(count, width, device="cpu", dtype=F64, seed=seed)


def gram(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def given_as(kind: str, rows: Tensor) -> Any:
    if kind == "tokens":
        return hk.Tokens(rows)
    return hk.RankedGram(gram(rows), len(rows)) if kind == "ranked" else gram(rows)


def pairs(kinds: tuple[str, ...], out: int, width: int, counts: tuple[int, ...]) -> Any:
    rows = [
        tokens(count, size, seed)
        for seed, (count, size) in enumerate(zip(counts, (width, out, width, out), strict=True))
    ]
    sides = [given_as(kind, one) for kind, one in zip(kinds, rows, strict=True)]
    return (sides[0], sides[1]), (sides[2], sides[3])


def compare(found: hk.SpectralBasis, want: hk.SpectralBasis, allowed: float) -> None:
    out, width = want.output.width, want.input.width
    gradient = tokens(out, width, 8)
    for task_weight in (0.0, 0.1, 1.0, 50.0, 1e308):
        deviation = want.deviation(task_weight)
        assert relative_error(found.deviation(task_weight), deviation) <= allowed
        step = want.natural_step(gradient, task_weight)
        assert relative_error(found.natural_step(gradient, task_weight), step) <= allowed
    left, right = found.kept(0.3), want.kept(0.3)
    assert torch.equal(left.directions, right.directions)
    for name in ("energy", "kept", "restored", "honesty_left", "task_lost"):
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), rtol=1e3 * allowed, atol=allowed
        )


@pytest.mark.parametrize("kinds", [*product(KINDS, KINDS, KINDS, KINDS)])
def test_every_mixture_equals_the_dense_route(kinds: tuple[str, ...]) -> None:
    out, width, counts = 70, 90, (5, 4, 3, 6)
    delta = tokens(out, width, 7)
    found = hk.spectral_basis(delta, *pairs(kinds, out, width, counts))
    want = hk.spectral_basis(delta, *pairs(("gram",) * 4, out, width, counts))
    assert found.routes == ("tokens", "tokens") and want.routes == ("dense", "dense")
    compare(found, want, 1e-8)


@pytest.mark.parametrize("axis", ["input", "output"])
def test_one_axis_by_tokens_the_other_dense(axis: str) -> None:
    kinds = ("tokens", "gram", "ranked", "gram") if axis == "input" else (
        "gram", "ranked", "gram", "tokens"
    )  # fmt: skip
    delta = tokens(30, 40, 7)
    found = hk.spectral_basis(delta, *pairs(kinds, 30, 40, (4, 3, 3, 4)))
    want = hk.spectral_basis(delta, *pairs(("gram",) * 4, 30, 40, (4, 3, 3, 4)))
    assert found.routes == (("dense", "tokens") if axis == "input" else ("tokens", "dense"))
    compare(found, want, 1e-8)


def test_the_methods_identities_hold_in_the_span() -> None:
    honesty, task = pairs(("tokens",) * 4, 30, 40, (5, 4, 3, 6))
    basis = hk.spectral_basis(tokens(30, 40, 7), honesty, task)
    assert basis.V.shape == (40, 8) and basis.U.shape == (30, 10) and basis.Y.shape == (10, 8)
    damped = []
    for side in (honesty[0], task[0]):
        matrix = gram(side.rows)
        damped.append(matrix / matrix.diagonal().mean() + 0.01 * torch.eye(40, dtype=F64))
    near, far = damped
    torch.testing.assert_close(basis.V.T @ near @ basis.V, torch.eye(8, dtype=F64))
    torch.testing.assert_close(far @ basis.V, near @ basis.V * basis.a)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    counts=st.tuples(*[st.integers(1, 12)] * 4),
    kind=st.sampled_from(KINDS),
    planted=st.sampled_from(["nothing", "dead", "zero", "copies"]),
    scale=st.integers(-12, 12),
)
def test_any_number_of_tokens(
    width: int, out: int, counts: tuple[int, ...], kind: str, planted: str, scale: int
) -> None:
    rows = [tokens(count, size, i) for i, (count, size) in
            enumerate(zip(counts, (width, out, width, out), strict=True))]  # fmt: skip
    if planted == "dead":
        rows[0][:, 0] = 0
    elif planted == "zero":
        rows[2].zero_()
    elif planted == "copies":
        rows[1][:] = rows[1][0].clone()
    rows[3] *= 10.0 ** (scale / 2)
    delta = tokens(out, width, 7)
    sides = [given_as(kind, one) for one in rows]
    found = hk.spectral_basis(delta, (sides[0], sides[1]), (sides[2], sides[3]))
    dense = [gram(one) for one in rows]
    want = hk.spectral_basis(delta, (dense[0], dense[1]), (dense[2], dense[3]))
    gradient = tokens(out, width, 8)
    assert relative_error(found.deviation(0.7), want.deviation(0.7)) <= 1e-7
    step = want.natural_step(gradient, 0.7)
    assert relative_error(found.natural_step(gradient, 0.7), step) <= 1e-7


def test_a_rank_is_verified_not_trusted() -> None:
    rows = [tokens(count, 80, seed) for seed, count in enumerate((30, 30, 8, 8))]
    delta = tokens(80, 80, 7)
    honest = [hk.RankedGram(gram(one), 6) for one in rows[:2]]
    task = [hk.RankedGram(gram(one), 8) for one in rows[2:]]
    found = hk.spectral_basis(delta, (honest[0], honest[1]), (task[0], task[1]))
    assert found.routes == ("dense", "dense")
    dense = [gram(one) for one in rows]
    compare(found, hk.spectral_basis(delta, (dense[0], dense[1]), (dense[2], dense[3])), 1e-12)


@pytest.mark.parametrize("spike", [0.0, 30.0])
def test_fp32_in_the_span(spike: float) -> None:
    """Tokens keep more digits than their Gram; a spiked Gram is no reason to go dense."""
    rows = [tokens(24, 200, seed) * torch.arange(1, 201).double() ** -0.5 for seed in range(4)]
    for one in rows:
        one[:, 3] *= 1 + spike
    delta = tokens(200, 200, 7)
    pair: Any = [hk.Tokens(one) for one in rows]
    want = hk.spectral_basis(delta, (pair[0], pair[1]), (pair[2], pair[3]))
    single: Any = [hk.Tokens(one.float()) for one in rows]
    ranked: Any = [hk.RankedGram(gram(one.float()), 24) for one in rows]
    for sides, allowed in ((single, 1e-4), (ranked, 3e-3)):
        found = hk.spectral_basis(delta.float(), (sides[0], sides[1]), (sides[2], sides[3]))
        assert found.routes == ("tokens", "tokens")
        for task_weight in (0.1, 10.0):
            exact = want.deviation(task_weight)
            assert relative_error(found.deviation(task_weight), exact) < allowed


@pytest.mark.parametrize("squared", [True, False])
def test_what_is_left_out_is_bounded_from_above(squared: bool) -> None:
    rows = tokens(20, 60, 0)
    matrix = rows.T @ rows / rows.square().mean() / 20
    held = Symmetric(rows / rows.square().mean().sqrt() / 20**0.5 if squared else matrix, squared)
    span = torch.linalg.qr(tokens(60, 15, 1))[0]
    inside = span.T @ matrix @ span
    kept = span @ inside @ span.T
    root = torch.linalg.inv(torch.linalg.cholesky(kept + 0.01 * torch.eye(60, dtype=F64)))
    exact = float(torch.linalg.matrix_norm(root @ (matrix - kept) @ root.T, 2))
    bound = left_out(held, span, inside, 0.01)
    assert exact <= bound <= 4 * exact


def test_a_span_holds_both_matrices() -> None:
    first, second = tokens(6, 50, 0), tokens(5, 50, 1)
    parts = [Symmetric(one.T @ one, squared=False) for one in (first, second)]
    found = find_span(parts[0], parts[1], 11, 0.01)
    assert found is not None and found.span.shape == (50, 19)
    torch.testing.assert_close(found.span.T @ found.span, torch.eye(19, dtype=F64))
    for rows in (first, second):
        torch.testing.assert_close(rows @ found.span @ found.span.T, rows)
    assert find_span(parts[0], parts[1], 1, 0.01) is None


def test_two_products_find_in_fp32_what_one_does_not() -> None:
    """Eigenvalues that fall as `1 / i^2`, and one neuron that is large in all tokens."""
    matrices = []
    for seed in range(2):
        left, _, right = torch.linalg.svd(tokens(60, 240, seed), full_matrices=False)
        rows = left / torch.arange(1, 61) @ right
        rows[:, 5] += 3 * rows.norm() / 60**0.5
        matrices.append((240 / rows.square().sum() * rows.T @ rows).float())
    first, second = (Symmetric(one, squared=False) for one in matrices)
    found = find_span(first, second, 120, 0.01)
    assert found is not None
    span, matrix = found.span.double(), matrices[0].double()
    kept = span @ (span.T @ matrix @ span) @ span.T
    root = torch.linalg.inv(torch.linalg.cholesky(kept + 0.01 * torch.eye(240, dtype=F64)))
    assert torch.linalg.matrix_norm(root @ (matrix - kept) @ root.T, 2) < 5e-4


def test_axes_of_different_damping() -> None:
    """The output axis climbs the ladder, dense; the input axis, by tokens, does not."""
    (inputs, _), (task_inputs, task_outputs) = pairs(
        ("tokens", "gram", "tokens", "gram"), 5, 20, (3, 9, 3, 9)
    )
    outputs = torch.eye(5, dtype=F64)
    outputs[0, 1] = outputs[1, 0] = 1.15
    delta = tokens(5, 20, 7)
    found = hk.spectral_basis(delta, (inputs, outputs), (task_inputs, task_outputs))
    dense = gram(inputs.rows), gram(task_inputs.rows)
    want = hk.spectral_basis(delta, (dense[0], outputs), (dense[1], task_outputs))
    assert found.routes == ("dense", "tokens") and found.damping == (0.2, 0.01)
    compare(found, want, 1e-8)


def test_without_damping_nothing_is_left_out() -> None:
    """A singular matrix then climbs the ladder, as anywhere else."""
    honesty, task = pairs(("tokens",) * 4, 12, 12, (2, 2, 2, 2))
    found = hk.spectral_basis(tokens(12, 12, 7), honesty, task, damping=0.0)
    assert found.routes == ("dense", "dense") and found.damping == (0.01, 0.01)


def test_poisoned_tokens_are_named() -> None:
    honesty, task = pairs(("tokens",) * 4, 12, 15, (2, 2, 2, 2))
    task[1].rows[1, 3] = torch.inf
    with pytest.raises(FactorizationError, match=r"layers\.3\.v \(task, output\) holds NaN"):
        hk.spectral_basis(tokens(12, 15, 7), honesty, task, name="layers.3.v")


def test_the_rule_counts_operations() -> None:
    def cheaper(first: int, second: int, *, width: int = 1000, ranked: bool = False) -> bool:
        rows = torch.empty(1, width, device="meta")
        pair: Any = [
            hk.RankedGram(rows.expand(width, -1), count) if ranked else
            hk.Tokens(rows.expand(count, -1)) for count in (first, second)
        ]  # fmt: skip
        return token_space.tokens_are_cheaper(*pair)

    assert cheaper(455, 455) and not cheaper(460, 460)
    assert cheaper(340, 345, ranked=True) and not cheaper(350, 350, ranked=True)
    assert not token_space.tokens_are_cheaper(torch.eye(9), hk.Tokens(torch.ones(1, 9)))
    assert token_space.token_flops(14336, 2 * 1792) < token_space.dense_flops(14336) / 5
