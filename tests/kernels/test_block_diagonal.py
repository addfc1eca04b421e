"""Method.md (10) by diagonal blocks of the curvature, against the same with the rest zeroed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.errors import FactorizationError, OperatorError
from hcnr_kernels.testing.accuracy import relative_error
from spectra import F64, Quartet, basis_of, damped, normal, problem


def masked(matrix: Tensor, size: int) -> Tensor:
    place = torch.arange(len(matrix)) // size
    return matrix * (place[:, None] == place)


def zeroed(quartet: Quartet, size: int) -> Quartet:
    inputs, outputs, task_inputs, task_outputs = (masked(one, size) for one in quartet)
    return inputs, outputs, task_inputs, task_outputs


@settings(max_examples=60, deadline=None)
@given(
    out=st.integers(1, 9),
    width=st.integers(1, 9),
    size=st.integers(1, 10),
    task_weight=st.sampled_from([0.0, 1e-3, 1.0, 1e4]),
)
def test_equals_the_same_with_zeros_outside_the_blocks(
    out: int, width: int, size: int, task_weight: float
) -> None:
    delta, quartet = problem(out, width)
    found = basis_of(delta, quartet, block_size=size)
    want = basis_of(delta, zeroed(quartet, size))
    assert relative_error(found.deviation(task_weight), want.deviation(task_weight)) < 1e-9
    gradient = normal(out, width, seed=9)
    steps = [one.natural_step(gradient, task_weight) for one in (found, want)]
    assert relative_error(*steps) < 1e-9
    kept = [one.kept(task_weight) for one in (found, want)]
    assert kept[0].restored == pytest.approx(kept[1].restored)
    assert kept[0].honesty_left == pytest.approx(kept[1].honesty_left)
    assert kept[0].task_lost == pytest.approx(kept[1].task_lost)
    lost = [one.task_energy().lost(task_weight) for one in (found, want)]
    assert lost[0] == pytest.approx(lost[1])


def test_attributes_are_those_of_the_method() -> None:
    delta, quartet = problem(10, 13)
    basis = basis_of(delta, quartet, block_size=4)
    inputs, outputs, task_inputs, _ = (damped(one) for one in zeroed(quartet, 4))
    torch.testing.assert_close(basis.V.T @ inputs @ basis.V, torch.eye(13, dtype=F64))
    torch.testing.assert_close(task_inputs @ basis.V, inputs @ basis.V * basis.a)
    torch.testing.assert_close(basis.Y, basis.U.T @ outputs @ delta @ inputs @ basis.V)
    assert basis.routes == ("blocks", "blocks")
    assert [tuple(s.shape) for s in basis.input.vectors.stacks] == [(3, 4, 4), (1, 1, 1)]
    total = damped(zeroed(quartet, 4)[1]) + damped(zeroed(quartet, 4)[3])
    exact = float(torch.linalg.cond(total, 1))
    assert exact / 3 <= basis.condition[0] <= exact * (1 + 1e-9)


def test_a_block_of_the_whole_width_changes_no_bit() -> None:
    delta, quartet = problem(10, 13)
    found, want = basis_of(delta, quartet, block_size=13), basis_of(delta, quartet)
    assert torch.equal(found.deviation(1.0), want.deviation(1.0))
    assert found.routes == ("dense", "dense")


@pytest.mark.parametrize("size", [3, 4, 13, 50])
def test_blocks_of_tokens(size: int) -> None:
    rows = normal(30, 13, seed=1)
    found = hk.BlockDiagonal.zeros(13, size, rows).add_gram_(rows[:20]).add_gram_(rows[20:])
    want = masked(rows.T @ rows, size)
    assert found.width == 13
    torch.testing.assert_close(found.dense(), want)
    torch.testing.assert_close(hk.BlockDiagonal.cut(rows.T @ rows, size).dense(), want)
    torch.testing.assert_close(found.diagonal(), want.diagonal())
    right = normal(13, 5, seed=2)
    torch.testing.assert_close(found.times(right), want @ right)
    torch.testing.assert_close(found.transposed_times(right), want.T @ right)


def test_second_moments_may_come_in_blocks_or_as_tokens() -> None:
    delta, quartet = problem(10, 13)
    want = basis_of(delta, quartet, block_size=4).deviation(1.0)
    cut = [hk.BlockDiagonal.cut(one, 4) for one in quartet]
    found = hk.spectral_basis(delta, (cut[0], cut[1]), (cut[2], cut[3]))
    torch.testing.assert_close(found.deviation(1.0), want)
    rows = normal(5, 13, seed=1)
    pairs = [
        ((one, quartet[1]), (quartet[2], quartet[3])) for one in (hk.Tokens(rows), rows.T @ rows)
    ]
    two = [hk.spectral_basis(delta, *pair, block_size=4).deviation(1.0) for pair in pairs]
    torch.testing.assert_close(*two)


def test_an_indefinite_block_raises_the_damping_of_all() -> None:
    delta, quartet = problem(10, 13)
    bad = quartet[0].clone()
    bad[9, 9] = -0.03 * bad.diagonal().mean()
    bad[9, :9] = bad[:9, 9] = bad[9, 10:] = bad[10:, 9] = 0
    basis = basis_of(delta, (bad, *quartet[1:]), block_size=4)
    assert basis.damping[0] == 0.01 and basis.damping[1] == 0.05
    bad[9, 9] = -1e3
    with pytest.raises(FactorizationError, match=r"\(honesty, input\).*order 10 fails"):
        basis_of(delta, (bad, *quartet[1:]), block_size=4)
    bad[9, 9] = torch.nan
    with pytest.raises(FactorizationError, match="holds NaN"):
        basis_of(delta, (bad, *quartet[1:]), block_size=4)


def test_bad_blocks() -> None:
    delta, quartet = problem(10, 13)
    with pytest.raises(OperatorError, match="block_size"):
        basis_of(delta, quartet, block_size=0)
    cut = [hk.BlockDiagonal.cut(one, 4) for one in quartet]
    with pytest.raises(OperatorError, match="of 13 neurons"):
        hk.spectral_basis(delta, (cut[1], cut[1]), (cut[2], cut[3]))
    other = hk.BlockDiagonal.cut(quartet[2], 5)
    with pytest.raises(OperatorError, match=r"\(task, input\).*the blocks of"):
        hk.spectral_basis(delta, (cut[0], cut[1]), (other, cut[3]))
