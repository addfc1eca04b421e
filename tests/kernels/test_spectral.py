"""Method.md (10) and the natural step against dense solves of the Kronecker system in float64."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.errors import FactorizationError, OperatorError
from hcnr_kernels.testing.accuracy import relative_error
from spectra import F64, Quartet, basis_of, damped, kronecker, moment, normal, problem


@settings(max_examples=60, deadline=None)
@given(
    out=st.integers(1, 7),
    width=st.integers(1, 7),
    tokens=st.integers(1, 12),
    task_weight=st.sampled_from([0.0, 1e-3, 0.3, 1.0, 20.0, 1e4]),
)
def test_equals_the_dense_kronecker_solves(
    out: int, width: int, tokens: int, task_weight: float
) -> None:
    delta, quartet = problem(out, width, tokens)
    honesty, task = kronecker(quartet)
    system = honesty + task_weight * task
    basis = basis_of(delta, quartet)
    want = torch.linalg.solve(system, task_weight * task @ delta.flatten()).view_as(delta)
    assert relative_error(basis.deviation(task_weight), want) < 1e-7
    gradient = normal(out, width, seed=9)
    step = -torch.linalg.solve(system, gradient.flatten()).view_as(gradient)
    assert relative_error(basis.natural_step(gradient, task_weight), step) < 1e-7


def test_hand_worked() -> None:
    """Diagonal curvature, no damping: every weight keeps its own share."""
    delta = torch.tensor([[2.0, 4.0]], dtype=F64)
    honesty = (torch.tensor([[0.5, 0.0], [0.0, 1.5]]), torch.ones(1, 1))
    task = (torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.ones(1, 1))
    basis = hk.spectral_basis(delta, honesty, task, damping=0.0)
    # Divided by the mean diagonal: honesty (0.5, 1.5), task (1.5, 0.5), so a = (3, 1/3).
    assert sorted(basis.a.tolist()) == pytest.approx([1 / 3, 3])
    assert basis.g.tolist() == pytest.approx([1.0])
    assert basis.deviation(1.0)[0].tolist() == pytest.approx([2 * 3 / 4, 4 * 1 / 4])
    assert basis.deviation(3.0)[0].tolist() == pytest.approx([2 * 9 / 10, 4 * 1 / 2])
    gradient = torch.tensor([[1.0, 1.0]], dtype=F64)
    assert basis.natural_step(gradient, 1.0)[0].tolist() == pytest.approx([-1 / 2, -1 / 2])
    assert basis.natural_step(gradient, 0.0)[0].tolist() == pytest.approx([-2, -2 / 3])
    found = basis.kept(1.0)
    # Energies 0.5 * 2^2 and 1.5 * 4^2, of which (3/4)^2 and (1/4)^2 stay.
    assert found.energy.sum() == pytest.approx(1.0) and found.directions.sum() == 2
    assert found.honesty_left == pytest.approx((2 * 9 / 16 + 24 / 16) / 26)
    # Task energies 1.5 * 2^2 and 0.5 * 4^2, of which (1/4)^2 and (3/4)^2 are lost.
    assert found.task_lost == pytest.approx((6 / 16 + 8 * 9 / 16) / 14)
    assert found.restored == pytest.approx(1 / 4 + 3 / 4)
    # Between 10^-0.5 and 10^0.5: the bin of one.
    assert found.directions[8] == 2 and found.edges[7] < 1 / 3 < 3 < found.edges[8]


def test_attributes_are_those_of_the_method() -> None:
    delta, quartet = problem(9, 13)
    basis = basis_of(delta, quartet)
    inputs, outputs, task_inputs, task_outputs = (damped(one) for one in quartet)
    torch.testing.assert_close(basis.V.T @ inputs @ basis.V, torch.eye(13, dtype=F64))
    torch.testing.assert_close(basis.U.T @ outputs @ basis.U, torch.eye(9, dtype=F64))
    torch.testing.assert_close(task_inputs @ basis.V, inputs @ basis.V * basis.a)
    torch.testing.assert_close(task_outputs @ basis.U, outputs @ basis.U * basis.g)
    torch.testing.assert_close(basis.Y, basis.U.T @ outputs @ delta @ inputs @ basis.V)
    share = 0.7 * torch.outer(basis.g, basis.a)
    want = basis.U @ (share / (1 + share) * basis.Y) @ basis.V.T
    torch.testing.assert_close(basis.deviation(0.7), want)
    assert basis.damping == (0.01, 0.01) and basis.routes == ("dense", "dense")
    sums = damped(quartet[1]) + damped(quartet[3]), damped(quartet[0]) + damped(quartet[2])
    for found, matrix in zip(basis.condition, sums, strict=True):
        exact = float(torch.linalg.cond(matrix, 1))
        assert exact / 3 <= found <= exact * (1 + 1e-9)


def test_equals_balanced_where_the_output_curvature_is_alike() -> None:
    """Method.md (9), input axis, everything restored: the other Kronecker factor then cancels."""
    delta, (inputs, outputs, task_inputs, _) = problem(8, 12)
    basis = hk.spectral_basis(delta, (inputs, outputs), (task_inputs, outputs))
    for task_weight in (0.1, 1.0, 30.0):
        want = hk.compensation(
            delta,
            torch.ones(12, dtype=torch.bool),
            inputs,
            axis="input",
            kind="balanced",
            task_hessian=task_inputs,
            task_weight=task_weight,
        )
        assert relative_error(basis.deviation(task_weight), want) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("tokens", [4, 60])
def test_from_base_to_tuned(dtype: torch.dtype, tokens: int) -> None:
    delta, quartet = problem(10, 14, tokens)
    basis = basis_of(delta.to(dtype), quartet)
    assert basis.deviation(0.0).count_nonzero() == 0
    for task_weight in (1e30, 1e38, 1e308):
        assert relative_error(basis.deviation(task_weight), delta) < 1e-4
        assert basis.natural_step(delta, task_weight).isfinite().all()
    for task_weight in (1e-30, 1e-300):
        assert basis.deviation(task_weight).abs().max() < 1e-20
    weights = (0, 0.01, 0.1, 1, 10, 100)
    lost = [basis.kept(weight).task_lost for weight in weights]
    left = [basis.kept(weight).honesty_left for weight in weights]
    restored = [basis.kept(weight).restored for weight in weights]
    assert lost == sorted(lost, reverse=True) and lost[0] == pytest.approx(1)
    assert left == sorted(left) and left[0] == 0
    assert restored == sorted(restored, reverse=True) and restored[0] == pytest.approx(140)


def test_deviation_is_the_minimum() -> None:
    delta, quartet = problem(6, 7)
    honesty, task = kronecker(quartet)

    def objective(deviation: Tensor) -> float:
        near, far = deviation.flatten(), (deviation - delta).flatten()
        return float(near @ honesty @ near + 2.0 * far @ task @ far)

    found = basis_of(delta, quartet).deviation(2.0)
    for seed in range(5):
        step = normal(6, 7, seed=50 + seed)
        for size in (-1e-3, 1e-3):
            assert objective(found + size * step) > objective(found)


def test_natural_step_goes_downhill_and_is_linear() -> None:
    delta, quartet = problem(11, 6)
    basis, gradient = basis_of(delta, quartet), normal(11, 6, seed=9)
    step = basis.natural_step(gradient, 3.0)
    assert float((step * gradient).sum()) < 0
    torch.testing.assert_close(basis.natural_step(-4 * gradient, 3.0), -4 * step)


def by_honesty_alone(delta: Tensor, quartet: Quartet, task_weight: float) -> Tensor:
    """(10) as it is written, whitened by the honesty curvature."""
    sides = []
    for place in (0, 1):
        honesty, task = damped(quartet[place]), damped(quartet[place + 2])
        factor = torch.linalg.cholesky(honesty)
        half = torch.linalg.solve_triangular(factor, task, upper=False)
        values, basis = torch.linalg.eigh(
            torch.linalg.solve_triangular(factor, half.T, upper=False)
        )
        vectors = torch.linalg.solve_triangular(factor.T, basis, upper=True)
        sides.append((values, vectors, factor @ basis))
    (a, v, dual_v), (g, u, dual_u) = sides
    share = task_weight * torch.outer(g, a)
    return u @ (share / (1 + share) * (dual_u.T @ delta @ dual_v)) @ v.T


@pytest.mark.parametrize(("decay", "allowed"), [(0.0, 1e-5), (0.5, 3e-5), (1.0, 1e-3)])
def test_fp32_accuracy(decay: float, allowed: float) -> None:
    """Whitened by the sum fp32 keeps its digits where, whitened by one side, it has none left."""
    delta, quartet = problem(160, 200, 400, decay)
    single: Any = tuple(one.float() for one in quartet)
    exact = basis_of(delta, quartet)
    basis = basis_of(delta.float(), single)
    plain = 0.0
    for task_weight in (0.1, 1.0, 10.0, 1e3):
        want = exact.deviation(task_weight)
        assert relative_error(by_honesty_alone(delta, quartet, task_weight), want) < 1e-6
        found = basis.deviation(task_weight)
        assert found.dtype == torch.float32
        assert relative_error(found, want) < allowed
        step = exact.natural_step(delta, task_weight)
        assert relative_error(basis.natural_step(delta, task_weight), step) < allowed
        rough = by_honesty_alone(delta.float(), single, task_weight)
        plain = max(plain, relative_error(rough, want) / relative_error(found, want))
    if decay == 1.0:
        assert plain > 30


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rounding_leaves_no_eigenvalue_negative_or_infinite(dtype: torch.dtype) -> None:
    """Without damping: neurons that no task token reaches, and one that honest ones hardly do."""
    delta, (inputs, outputs, task_inputs, task_outputs) = problem(30, 40)
    task_inputs[20:], task_inputs[:, 20:] = 0, 0
    outputs = torch.eye(30, dtype=F64)
    outputs[0, 0] = 1e-20
    quartet: Any = tuple(one.to(dtype) for one in (inputs, outputs, task_inputs, task_outputs))
    basis = basis_of(delta.to(dtype), quartet, damping=0.0)
    assert basis.damping == (0.0, 0.0)
    for values in (basis.a, basis.g, basis.U, basis.V):
        assert values.isfinite().all()
    assert basis.a.min() >= 0 and basis.g.min() > 0
    for task_weight in (0.0, 1.0, 1e300):
        assert basis.deviation(task_weight).isfinite().all()
        assert math.isfinite(basis.kept(task_weight).task_lost)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_dead_neurons(damping: float) -> None:
    """Damping lifts a dead neuron like any other; without it, one that no data reach is base."""
    delta, quartet = problem(6, 8)
    inputs, _, task_inputs, _ = quartet
    for matrix, dead in ((inputs, [1, 2]), (task_inputs, [2, 3])):
        matrix[dead], matrix[:, dead] = 0, 0
    basis = basis_of(delta, quartet, damping=damping)
    found = basis.deviation(1.0)
    assert found.isfinite().all() and basis.damping == (damping, damping)
    if damping:
        honesty, task = kronecker(quartet)
        want = torch.linalg.solve(honesty + task, task @ delta.flatten()).view_as(delta)
        assert relative_error(found, want) < 1e-9
    else:
        # A unit pivot keeps neuron 2 at base: no task token asks for it.
        assert found[:, 2].abs().max() < 1e-12


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_zero_matrices(damping: float) -> None:
    delta, quartet = problem(5, 4)
    nothing = (torch.zeros(4, 4), torch.zeros(5, 5))
    both = hk.spectral_basis(delta, nothing, nothing, damping=damping)
    share = 0.75 if damping else 0.0
    torch.testing.assert_close(both.deviation(3.0), share * delta)
    assert hk.spectral_basis(delta, nothing, quartet[2:], damping=damping).a.isfinite().all()
    no_change = basis_of(torch.zeros(5, 4), quartet, damping=damping)
    assert no_change.deviation(3.0).count_nonzero() == 0
    assert no_change.kept(3.0).honesty_left == no_change.kept(3.0).task_lost == 0


def test_the_ladder_is_shared_by_both_data_sets_of_an_axis() -> None:
    delta, quartet = problem(5, 4)
    indefinite = torch.eye(4, dtype=F64)
    indefinite[0, 1] = indefinite[1, 0] = 1.15
    for place in (0, 2):
        changed: Any = tuple(indefinite if i == place else one for i, one in enumerate(quartet))
        basis = basis_of(delta, changed)
        assert basis.damping == (0.01, 0.2)
        honesty = torch.kron(damped(changed[1]), damped(changed[0], 0.2))
        task = torch.kron(damped(changed[3]), damped(changed[2], 0.2))
        want = torch.linalg.solve(honesty + task, task @ delta.flatten()).view_as(delta)
        assert relative_error(basis.deviation(1.0), want) < 1e-9


NAMES = ("(honesty, input)", "(honesty, output)", "(task, input)", "(task, output)")


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("width", [6, 256])
def test_what_cannot_be_factorised_is_named(place: int, width: int) -> None:
    delta = normal(width, width, seed=5)
    quartet: Any = [torch.eye(width, dtype=F64) for _ in range(4)]
    quartet[place][3, 3] = -2 * width
    with pytest.raises(FactorizationError) as caught:
        basis_of(delta, quartet, name="layers.0.q")
    for part in ("layers.0.q", NAMES[place], "order 4", "damping 1"):
        assert part in str(caught.value)
    quartet[place][2, 1] = torch.nan
    with pytest.raises(FactorizationError, match="NaN or infinity") as caught:
        basis_of(delta, quartet, name="layers.0.q")
    assert f"layers.0.q {NAMES[place]}" in str(caught.value)


def test_all_four_are_looked_at_before_anything_is_factorised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delta, quartet = problem(5, 4)
    quartet[3][0, 0] = torch.nan
    monkeypatch.delattr(torch.linalg, "eigh")
    with pytest.raises(FactorizationError, match=r"\(task, output\) holds NaN"):
        basis_of(delta, quartet)


def test_matrices_that_read_the_same_inputs_share_their_directions() -> None:
    delta, quartet = problem(5, 8)
    other, more = problem(7, 8)
    first = basis_of(delta, quartet)
    shared: Any = (quartet[0], more[1], quartet[2], more[3])
    found = basis_of(other, shared, shared=first)
    assert found.input is first.input
    assert torch.equal(found.deviation(0.3), basis_of(other, shared).deviation(0.3))
    for refused in (basis_of(delta.float(), quartet), basis_of(*problem(5, 9))):
        with pytest.raises(OperatorError, match="shared must be a basis of 8 inputs"):
            basis_of(other, shared, shared=refused)


def test_an_eigenproblem_that_does_not_converge_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Tensor) -> None:
        raise torch.linalg.LinAlgError("failed")  # pyright: ignore[reportPrivateImportUsage]

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    with pytest.raises(FactorizationError, match=r"the matrix \(honesty, input\).*converge"):
        basis_of(*problem(5, 4))


def test_a_diagonal_that_damping_cancels_is_no_dead_neuron() -> None:
    delta, (_, outputs, task_inputs, task_outputs) = problem(5, 2)
    cancelled = torch.diag(torch.tensor([2.01, -0.01], dtype=F64))
    basis = basis_of(delta, (cancelled, outputs, task_inputs, task_outputs))
    assert basis.damping[1] == 0.02


@settings(max_examples=60, deadline=None)
@given(data=st.data(), out=st.integers(1, 40), width=st.integers(1, 40))
def test_a_stationary_point_or_an_error(data: st.DataObject, out: int, width: int) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, F64]))
    task_weight = data.draw(st.sampled_from([0.0, 1e-6, 0.5, 100.0, 1e12]))
    sides, poisoned = [], False
    for place, size in enumerate((width, out, width, out)):
        scale = 10.0 ** data.draw(st.integers(-12, 12))
        one = moment(data.draw(st.integers(1, 60)), size, place) * scale
        planted = data.draw(st.sampled_from(["nothing", "nothing", "dead", "zero", "poison"]))
        where = data.draw(st.integers(0, size - 1))
        if planted == "dead":
            one[where], one[:, where] = 0, 0
        elif planted == "zero":
            one.zero_()
        elif planted == "poison":
            one[where, 0] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
            poisoned = True
        sides.append(one.to(dtype))
    delta = normal(out, width, seed=7, dtype=dtype)
    quartet: Any = tuple(sides)
    if poisoned:
        with pytest.raises(FactorizationError, match="NaN or infinity"):
            basis_of(delta, quartet)
        return
    basis = basis_of(delta, quartet)
    found = basis.deviation(task_weight).double()
    assert found.isfinite().all()
    inputs, outputs, task_inputs, task_outputs = (damped(one.double()) for one in sides)
    small = 1 / max(1.0, task_weight)
    push = outputs @ found @ inputs * small
    pull = task_outputs @ (found - delta.double()) @ task_inputs * (task_weight * small)
    honesty, task = (
        float(torch.linalg.matrix_norm(left, 2) * torch.linalg.matrix_norm(right, 2))
        for left, right in ((outputs, inputs), (task_outputs, task_inputs))
    )
    terms = small * honesty * found.norm() + small * task_weight * task * delta.norm()
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    assert (push + pull).norm() <= rounding * terms


def test_arguments_are_left_alone_and_low_precision_is_widened() -> None:
    delta, quartet = problem(7, 9)
    low: Any = tuple(one.bfloat16() for one in quartet)
    copies = [one.clone() for one in (delta, *quartet)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = basis_of(delta.bfloat16(), low).deviation(1.0)
        basis = basis_of(delta, quartet)
        exact, step = basis.deviation(1.0), basis.natural_step(delta, 1.0)
    wide: Any = tuple(one.float() for one in low)
    torch.testing.assert_close(found, basis_of(delta.bfloat16().float(), wide).deviation(1.0))
    torch.testing.assert_close(exact, basis_of(delta, quartet).deviation(1.0))
    torch.testing.assert_close(step, basis.natural_step(delta, 1.0))
    assert found.dtype == torch.float32 and exact.dtype == F64
    for one, copy in zip((delta, *quartet), copies, strict=True):
        assert torch.equal(one, copy)
    assert not basis_of(delta.requires_grad_(), quartet).deviation(1.0).requires_grad


GOOD = (torch.eye(3), torch.eye(2))


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("delta", {"delta": torch.zeros(2)}),
        ("delta", {"delta": torch.zeros(2, 3, dtype=torch.int32)}),
        ("delta", {"delta": torch.full((2, 3), math.nan)}),
        ("damping", {"damping": -0.1}),
        ("damping", {"damping": math.inf}),
        ("honesty", {"honesty": torch.eye(3)}),
        ("honesty[0]", {"honesty": (torch.eye(2), torch.eye(2))}),
        ("honesty[1]", {"honesty": (torch.eye(3), torch.eye(3))}),
        ("task[0]", {"task": (torch.eye(3).int(), torch.eye(2))}),
        ("task[0]", {"task": (torch.eye(3, device="meta"), torch.eye(2))}),
        ("task[1]", {"task": (torch.eye(3), hk.Tokens(torch.zeros(0, 2)))}),
        ("task[1]", {"task": (torch.eye(3), hk.Tokens(torch.zeros(4, 3)))}),
        ("task[1].rank", {"task": (torch.eye(3), hk.RankedGram(torch.eye(2), 0))}),
        ("task[1]", {"task": (torch.eye(3), None)}),
    ],
)
def test_refused(argument: str, changed: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"delta": torch.zeros(2, 3), "honesty": GOOD, "task": GOOD}
    with pytest.raises(OperatorError) as caught:
        hk.spectral_basis(**{**arguments, **changed})
    assert str(caught.value).startswith(f"{argument} must be")


def test_refused_by_the_basis() -> None:
    basis = hk.spectral_basis(torch.zeros(2, 3), GOOD, GOOD)
    for weight in (-1.0, math.nan, math.inf):
        for call in (
            basis.deviation,
            basis.kept,
            lambda mu: basis.natural_step(torch.zeros(2, 3), mu),
        ):
            with pytest.raises(OperatorError, match="task_weight must be"):
                call(weight)
    for gradient in (torch.zeros(3, 2), torch.zeros(2, 3).int(), torch.full((2, 3), math.inf)):
        with pytest.raises(OperatorError, match="gradient must be"):
            basis.natural_step(gradient, 1.0)
