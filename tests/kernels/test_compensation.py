"""method.md (6)-(9) against loops and dense solves written here, sign-checked by the objective."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels import compensation as _function
from hcnr_kernels.checks import Axis
from hcnr_kernels.errors import FactorizationError
from hcnr_kernels.ops.compensation import vectorised
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import alternate, curvature, randn

F64 = torch.float64
AXES: tuple[Axis, ...] = ("input", "output")
KINDS = ("none", "sum", "joint", "balanced")
pytestmark = pytest.mark.usefixtures("route")


def problem(
    axis: Axis, neurons: int = 24, others: int = 7, dtype: torch.dtype = F64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """delta, mask, honesty H, task H."""
    delta = randn(others, neurons, device="cpu", dtype=dtype, seed=1)
    honest = curvature(neurons, device="cpu", dtype=dtype, seed=2)
    task = 30 * curvature(neurons, device="cpu", dtype=dtype, seed=3)
    mask = alternate(neurons, "cpu")
    return (delta if axis == "input" else delta.T.contiguous()), mask, honest, task


def lines_of(matrix: Tensor, axis: Axis) -> Tensor:
    return matrix if axis == "input" else matrix.T


def damped(hessian: Tensor, damping: float = 0.01) -> Tensor:
    shift = damping * hessian.diagonal().mean()
    return hessian + shift * torch.eye(len(hessian), dtype=hessian.dtype)


def solve(delta: Tensor, mask: Tensor, hessian: Tensor, **kwargs: Any) -> Tensor:
    return hk.compensation(delta, mask, hessian, **kwargs)


@pytest.mark.parametrize("axis", AXES)
def test_sum_equals_a_loop_over_constraints(axis: Axis) -> None:
    delta, mask, honest, _ = problem(axis)
    inverse = torch.linalg.inv(damped(honest))
    total = torch.zeros_like(lines_of(delta, axis))
    for k in range(len(mask)):
        if not mask[k]:
            one = lines_of(delta, axis)[:, k] / inverse[k, k]
            total += torch.outer(one, inverse[:, k])
    found = lines_of(solve(delta, mask, honest, axis=axis, kind="sum"), axis)
    assert relative_error(found[:, mask], total[:, mask]) < 1e-10


@pytest.mark.parametrize("axis", AXES)
def test_joint_equals_constrained_least_squares(axis: Axis) -> None:
    """tr(E H E^T) = |E R^T|^2 with H = R^T R: the free columns by a dense least-squares solve."""
    delta, mask, honest, _ = problem(axis)
    root = torch.linalg.cholesky(damped(honest)).T
    fixed = lines_of(delta, axis)[:, ~mask] @ root[:, ~mask].T
    free = torch.linalg.lstsq(root[:, mask], -fixed.T).solution.T
    found = lines_of(solve(delta, mask, honest, axis=axis, kind="joint"), axis)
    assert relative_error(found[:, mask], free) < 1e-9


@pytest.mark.parametrize(("axis", "weight"), [*product(AXES, (0.03, 1.0, 40.0))])
def test_balanced_equals_constrained_least_squares(axis: Axis, weight: float) -> None:
    delta, mask, honest, task = problem(axis)
    near_base = torch.linalg.cholesky(damped(honest / honest.diagonal().mean())).T
    near_tuned = weight**0.5 * torch.linalg.cholesky(damped(task / task.diagonal().mean())).T
    lines = lines_of(delta, axis)
    fixed = torch.where(mask, 0, lines)
    target = torch.cat([-fixed @ near_base.T, (lines - fixed) @ near_tuned.T], 1)
    system = torch.cat([near_base[:, mask], near_tuned[:, mask]])
    free = torch.linalg.lstsq(system, target.T).solution.T
    found = solve(
        delta, mask, honest, axis=axis, kind="balanced", task_hessian=task, task_weight=weight
    )
    assert relative_error(lines_of(found, axis)[:, mask], free) < 1e-9


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_balanced_runs_from_joint_to_tuned(axis: Axis, dtype: torch.dtype) -> None:
    delta, mask, honest, task = problem(axis, dtype=dtype)
    joint = solve(delta, mask, honest, axis=axis, kind="joint")

    def at(weight: float) -> Tensor:
        return solve(
            delta, mask, honest, axis=axis, kind="balanced", task_hessian=task, task_weight=weight
        )

    assert torch.equal(at(0.0), joint)
    assert relative_error(at(1e-9), joint) < 1e-5
    for weight in (1e9, 1e37):
        assert relative_error(at(weight), delta) < 1e-4
    distances = [relative_error(at(weight), delta) for weight in (0, 0.1, 1, 10, 100)]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize(("axis", "kind"), [*product(AXES, KINDS)])
def test_task_neurons_keep_delta_exactly(axis: Axis, kind: str) -> None:
    delta, mask, honest, task = problem(axis, dtype=torch.float32)
    for block in (None, 5):
        found = solve(
            delta, mask, honest, axis=axis, kind=kind, task_hessian=task, block_size=block
        )
        assert found.dtype == torch.float32
        assert torch.equal(lines_of(found, axis)[:, ~mask], lines_of(delta, axis)[:, ~mask])


@pytest.mark.parametrize("axis", AXES)
def test_none_needs_no_curvature_and_is_zero(axis: Axis) -> None:
    delta, mask, _, _ = problem(axis, dtype=torch.bfloat16)
    found = hk.compensation_ex(delta, mask, None, axis=axis, kind="none")
    want = torch.where(mask, 0, lines_of(delta, axis).float())
    assert torch.equal(lines_of(found.deviation, axis), want)
    assert (float(found.damping), float(found.condition), int(found.status)) == (0, 0, 0)


def random_change(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """A problem where one constraint at a time is close to all at once: few task neurons."""
    delta, _, honest, _ = problem(axis)
    mask = torch.ones(24, dtype=torch.bool)
    mask[[3, 17]] = False
    return delta, mask, honest


@pytest.mark.parametrize(("axis", "kind"), [*product(AXES, ("sum", "joint"))])
def test_compensation_lowers_the_objective_and_the_wrong_sign_raises_it(
    axis: Axis, kind: str
) -> None:
    delta, mask, honest = random_change(axis)
    none = solve(delta, mask, honest, axis=axis, kind="none")
    found = solve(delta, mask, honest, axis=axis, kind=kind)
    wrong = 2 * none - found
    before, after, against = (
        float(hk.objective(deviation, honest, axis=axis)) for deviation in (none, found, wrong)
    )
    assert after < 0.95 * before < before < against


@pytest.mark.parametrize("axis", AXES)
def test_joint_is_the_minimum(axis: Axis) -> None:
    delta, mask, honest, _ = problem(axis)
    found = solve(delta, mask, honest, axis=axis, kind="joint")
    best = float(hk.objective(found, damped(honest), axis=axis))
    for seed in range(5):
        step = randn(*found.shape, device="cpu", dtype=F64, seed=50 + seed)
        lines_of(step, axis)[:, ~mask] = 0
        for size in (-1e-3, 1e-3):
            assert float(hk.objective(found + size * step, damped(honest), axis=axis)) > best


@pytest.mark.parametrize("axis", AXES)
def test_objective_by_traces(axis: Axis) -> None:
    delta, _, honest, _ = problem(axis)
    want = torch.trace(lines_of(delta, axis) @ honest @ lines_of(delta, axis).T)
    found = hk.objective(delta, honest, axis=axis)
    assert found.dtype == F64 and found.dim() == 0
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    ("neurons", "restored"), [(1, 1), (1, 0), (7, 7), (9, 4), (64, 0), (203, 90)]
)
def test_both_objectives_by_traces(
    axis: Axis, neurons: int, restored: int, dtype: torch.dtype
) -> None:
    delta, _, honest, _ = problem(axis, neurons, 31, dtype)
    mask = torch.zeros(neurons, dtype=torch.bool)
    mask[torch.randperm(neurons, generator=torch.Generator().manual_seed(4))[:restored]] = True
    deviation = solve(delta, mask, honest, axis=axis, kind="joint")
    none = lines_of(delta, axis).double() * ~mask
    found = hk.objectives(deviation, mask, honest, axis=axis)
    for one, lines in zip(found, (none, lines_of(deviation, axis).double()), strict=True):
        want = torch.trace(lines @ honest.double() @ lines.T)
        assert one.dtype == F64 and one.dim() == 0
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(one, want, rtol=tolerance, atol=tolerance)


def test_neurons_near_the_end_of_the_range_are_solved_as_before() -> None:
    """Entries of the inverse whose squares overflow are no failure: its entries do not."""
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    x[:, 3:5] *= 1e-11
    x[:, 4] += 0.5 * x[:, 3]
    mask = torch.zeros(16, dtype=torch.bool)
    mask[[3, 7]] = True
    lines = torch.randn(8, 16)
    facts = vectorised._sum_of_rows_(lines, mask, x.T @ x / 200, 0.0)
    assert facts is not None
    _, condition, status = facts
    assert int(status) == 0 and bool(condition.isfinite()) and bool(lines.isfinite().all())


def test_both_objectives_do_not_listen_to_autocast() -> None:
    delta, mask, honest, _ = problem("input", 64, 31, torch.float32)
    want = hk.objectives(delta, mask, honest, axis="input")
    with torch.autocast("cpu", torch.bfloat16):
        assert hk.objectives(delta, mask, honest, axis="input") == want


@settings(max_examples=40, deadline=None)
@given(
    neurons=st.integers(1, 30),
    block=st.integers(1, 31),
    axis=st.sampled_from(AXES),
    kind=st.sampled_from(["sum", "joint", "balanced"]),
    seed=st.integers(0, 100),
)
def test_block_size_is_the_method_on_a_block_diagonal_matrix(
    neurons: int, block: int, axis: Axis, kind: str, seed: int
) -> None:
    delta, _, honest, task = problem(axis, neurons=neurons, others=3)
    mask = randn(neurons, device="cpu", dtype=F64, seed=seed) > 0
    place = torch.arange(neurons) // block
    inside = place[:, None] == place[None, :]
    blocks = solve(delta, mask, honest, axis=axis, kind=kind, task_hessian=task, block_size=block)
    whole = solve(delta, mask, honest * inside, axis=axis, kind=kind, task_hessian=task * inside)
    assert relative_error(blocks, whole) < 1e-9


@pytest.mark.parametrize(("axis", "kind"), [*product(AXES, KINDS)])
def test_nothing_and_everything_restored(axis: Axis, kind: str) -> None:
    delta, mask, honest, task = problem(axis)
    arguments: dict[str, Any] = {"axis": axis, "kind": kind, "task_hessian": task}
    assert torch.equal(solve(delta, mask & False, honest, **arguments), delta)
    everything = solve(delta, mask | True, honest, **arguments)
    if kind == "balanced":
        both = damped(honest / honest.diagonal().mean()) + damped(task / task.diagonal().mean())
        pull = lines_of(delta, axis) @ damped(task / task.diagonal().mean())
        want = torch.linalg.solve(both, pull.T).T
        assert relative_error(lines_of(everything, axis), want) < 1e-9
    else:
        assert everything.count_nonzero() == 0


@pytest.mark.parametrize(("axis", "damping"), [*product(AXES, (0.0, 0.01))])
def test_dead_neurons(axis: Axis, damping: float) -> None:
    delta, mask, honest, task = problem(axis)
    dead = torch.zeros_like(mask)
    dead[mask.nonzero()[0]] = True
    dead[(~mask).nonzero()[0]] = True
    for hessian in (honest, task):
        hessian[dead] = 0
        hessian[:, dead] = 0
    for kind in ("sum", "joint"):
        found = solve(delta, mask, honest, axis=axis, kind=kind, damping=damping)
        assert found.isfinite().all()
        assert lines_of(found, axis)[:, dead & mask].count_nonzero() == 0
    found = solve(
        delta, mask, honest, axis=axis, kind="balanced", task_hessian=task, damping=damping
    )
    restored = lines_of(found, axis)[:, dead & mask]
    pull = 0.5 if damping else 0.0
    torch.testing.assert_close(restored, pull * lines_of(delta, axis)[:, dead & mask])


@pytest.mark.parametrize(("axis", "kind"), [*product(AXES, ("sum", "joint", "balanced"))])
def test_all_dead(axis: Axis, kind: str) -> None:
    delta, mask, honest, task = problem(axis)
    nothing = torch.zeros_like(honest)
    found = solve(delta, mask, nothing, axis=axis, kind=kind, task_hessian=nothing)
    share = 0.5 if kind == "balanced" else 0.0
    torch.testing.assert_close(
        lines_of(found, axis)[:, mask], share * lines_of(delta, axis)[:, mask]
    )
    task_only = solve(delta, mask, nothing, axis=axis, kind="balanced", task_hessian=task)
    assert task_only.isfinite().all()


@pytest.mark.parametrize("kind", ["sum", "joint", "balanced"])
def test_non_finite_curvature_is_named(kind: str) -> None:
    delta, mask, honest, task = problem("input", dtype=torch.float32)
    bad = (task if kind == "balanced" else honest).clone()
    bad[0, 5] = torch.nan
    pair = (honest, bad) if kind == "balanced" else (bad, task)
    arguments: dict[str, Any] = {"axis": "input", "kind": kind, "task_hessian": pair[1]}
    with pytest.raises(FactorizationError, match=r"layers\.0\.q.*NaN or infinity"):
        hk.compensation(delta, mask, pair[0], name="layers.0.q", **arguments)
    found = hk.compensation_ex(delta, mask, pair[0], **arguments)
    assert int(found.status) == -1
    assert found.deviation[:, mask].isnan().all()
    assert torch.equal(found.deviation[:, ~mask], delta[:, ~mask])


@pytest.mark.parametrize("kind", ["sum", "joint", "balanced"])
def test_the_ladder_and_its_end(kind: str) -> None:
    delta, _, _, _ = problem("input", neurons=6)
    mask = torch.tensor([True, True, True, True, False, False])
    flipped = torch.eye(6, dtype=F64)
    flipped[0, 1] = flipped[1, 0] = 1.15
    arguments: dict[str, Any] = {"axis": "input", "kind": kind, "task_hessian": flipped}
    found = hk.compensation_ex(delta, mask, flipped, **arguments)
    assert (int(found.status), float(found.damping)) == (0, pytest.approx(0.2))
    flipped[0, 1] = flipped[1, 0] = 5.0
    with pytest.raises(FactorizationError, match=r"order 2 .*damping 1"):
        hk.compensation(delta, mask, flipped, **arguments)
    found = hk.compensation_ex(delta, mask, flipped, **arguments)
    assert int(found.status) == 2 and found.deviation[:, mask].isnan().all()


@pytest.mark.parametrize(("axis", "kind"), [*product(AXES, ("joint", "balanced"))])
def test_condition_bounds_the_restored_system(axis: Axis, kind: str) -> None:
    delta, mask, honest, task = problem(axis)
    system = damped(honest / honest.diagonal().mean())
    if kind == "balanced":
        system = system + damped(task / task.diagonal().mean())
    exact = float(torch.linalg.cond(system[mask][:, mask], 1))
    found = hk.compensation_ex(delta, mask, honest, axis=axis, kind=kind, task_hessian=task)  # pyright: ignore[reportArgumentType]
    assert exact / 3 <= float(found.condition) <= exact * (1 + 1e-9)


def test_scale_of_the_curvature_does_not_matter() -> None:
    """Squared gradients of a mean loss may be as small as 1e-14."""
    delta, mask, honest, task = problem("output", dtype=torch.float32)
    for kind in ("sum", "joint", "balanced"):
        arguments: dict[str, Any] = {"axis": "output", "kind": kind}
        one = solve(delta, mask, honest, task_hessian=task, **arguments)
        two = solve(delta, mask, 1e-14 * honest, task_hessian=1e-10 * task, **arguments)
        assert relative_error(two, one) < 1e-4


@pytest.mark.parametrize("kind", ["sum", "joint", "balanced"])
def test_chunks_do_not_change_the_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delta, mask, honest, task = problem("input", others=40)
    arguments: dict[str, Any] = {"axis": "input", "kind": kind, "task_hessian": task}
    want = _function(delta, mask, honest, **arguments)
    monkeypatch.setattr(vectorised, "chunk_length", lambda row: 3)
    torch.testing.assert_close(_function(delta, mask, honest, **arguments), want)


@pytest.mark.parametrize("kind", ["joint", "balanced"])
@pytest.mark.parametrize("block_size", [None, 4])
def test_condition_of_a_multiple_of_the_identity_is_one(kind: Any, block_size: int | None) -> None:
    """Padding of short blocks and the other neurons must not show in it."""
    hessian = 100 * torch.eye(9)
    mask = torch.tensor([True, False, True, True, False, True, True, True, True])
    found = hk.compensation_ex(
        torch.ones(3, 9), mask, hessian, axis="input", kind=kind, task_hessian=hessian,
        damping=1.0, block_size=block_size,
    )  # fmt: skip
    assert float(found.condition) == pytest.approx(1.0)


@pytest.mark.parametrize(("axis", "kind"), [*product(AXES, ("sum", "joint", "balanced"))])
@pytest.mark.parametrize("others", [40, 700])
def test_many_neurons_equal_the_twin(axis: Axis, kind: Any, others: int) -> None:
    """Wide enough for the recursion, and for both orders of product and solve."""
    delta, mask, honest, task = problem(axis, neurons=600, others=others)
    for dead in (mask.nonzero()[3], (~mask).nonzero()[5]):
        for hessian in (honest, task):
            hessian[dead], hessian[:, dead] = 0, 0
    inverse = torch.linalg.inv(damped(honest) + torch.diag((honest.diagonal() == 0).double() * 1.0))
    shift = 0.01 * honest.diagonal().mean()
    found = hk.compensation_ex(delta, mask, honest, axis=axis, kind=kind, task_hessian=task)
    lines, got = lines_of(delta, axis), lines_of(found.deviation, axis)
    fixed = lines[:, ~mask]
    near_base = damped(honest / honest.diagonal().mean())
    near_tuned = damped(task / task.diagonal().mean())
    if kind == "sum":
        want = (fixed / inverse.diagonal()[~mask]) @ inverse[~mask][:, mask]
    elif kind == "joint":
        right = fixed @ near_base[~mask][:, mask]
        want = -torch.linalg.solve(near_base[mask][:, mask], right.T).T
    else:
        both = near_base + near_tuned
        right = lines @ near_tuned[:, mask] - fixed @ both[~mask][:, mask]
        want = torch.linalg.solve(both[mask][:, mask], right.T).T
    assert relative_error(got[:, mask], want) < 1e-9
    assert torch.equal(got[:, ~mask], fixed)
    assert int(found.status) == 0 and float(found.damping) == pytest.approx(0.01)
    if kind == "sum":
        live = honest.diagonal() != 0
        whole = honest[live][:, live] + shift * torch.eye(int(live.sum()), dtype=F64)
        exact = float(torch.linalg.cond(whole, 1))
        assert exact / 3 <= float(found.condition) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["sum", "joint", "balanced"])
def test_many_neurons_fail_like_few(kind: Any) -> None:
    delta, mask, honest, _ = problem("input", neurons=600, others=30, dtype=torch.float32)
    mask[:] = torch.arange(600) >= 100
    task = torch.eye(600)
    arguments: dict[str, Any] = {"axis": "input", "kind": kind, "task_hessian": task}
    bad = honest.clone()
    bad[500, 3] = torch.nan
    found = hk.compensation_ex(delta, mask, bad, **arguments)
    assert int(found.status) == -1 and found.deviation[:, mask].isnan().all()
    assert torch.equal(found.deviation[:, ~mask], delta[:, ~mask])
    bad = honest.clone()
    bad[400, 399] = bad[399, 400] = 1e4
    found = hk.compensation_ex(delta, mask, bad, **arguments)
    # An order of `sum` counts all neurons, one of the others the restored ones.
    assert int(found.status) == (401 if kind == "sum" else 301)
    assert float(found.damping) == pytest.approx(1.0)
    assert found.deviation[:, mask].isnan().all()


@pytest.mark.parametrize("everything", [True, False])
def test_many_neurons_nothing_and_everything_restored(everything: bool) -> None:
    delta, mask, honest, _ = problem("output", neurons=300, others=9)
    for kind in ("sum", "joint"):
        found = solve(delta, mask | True if everything else mask & False, honest,
                      axis="output", kind=kind)  # fmt: skip
        assert torch.equal(found, torch.zeros_like(delta) if everything else delta)


@pytest.mark.parametrize("kind", ["sum", "joint", "balanced"])
@pytest.mark.parametrize("neurons", [200, 600, 1100])
def test_beyond_the_range_of_the_dtype_is_a_failure(kind: Any, neurons: int) -> None:
    """1e-39 is finite, its reciprocal is not."""
    delta, mask = torch.ones(5, neurons), alternate(neurons, "cpu")
    tiny = 1e-39 * torch.eye(neurons)
    found = hk.compensation_ex(delta, mask, tiny, axis="input", kind=kind, task_hessian=tiny)
    assert int(found.status) > 0
    assert found.deviation[:, mask].isnan().all() and not found.deviation[:, ~mask].isnan().any()


def test_a_pivot_that_damping_makes_zero_is_no_dead_neuron() -> None:
    matrix = torch.diag(torch.tensor([-0.25, 2.25, 1.0, 1.0], dtype=F64))
    matrix[0, 2] = matrix[2, 0] = 0.3
    matrix[0, 1] = matrix[1, 0] = 0.1
    mask = torch.tensor([True, True, False, False])
    found = hk.compensation_ex(
        torch.ones(3, 4, dtype=F64), mask, matrix, axis="input", kind="joint", damping=0.25
    )
    assert (int(found.status), float(found.damping)) == (0, pytest.approx(0.5))
