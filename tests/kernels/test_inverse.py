"""The damped inverse: values, the ladder, dead neurons, and every way to fail."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels import inverse as driver
from hcnr_kernels.errors import FactorizationError
from hcnr_kernels.registry import relative_error
from hcnr_kernels.samples import curvature

F64 = torch.float64


def psd(width: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return curvature(width, device="cpu", dtype=dtype, seed=seed)


def with_lowest(width: int, share: float) -> Tensor:
    """Symmetric, mean diagonal one, lowest eigenvalue `-share`."""
    values = torch.full((width,), (width + share) / (width - 1), dtype=F64)
    values[0] = -share
    basis = torch.linalg.qr(psd(width))[0]
    return basis @ values.diag() @ basis.T


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 70), damping=st.sampled_from([0.0, 0.01, 0.3]))
def test_equals_the_dense_inverse(width: int, damping: float) -> None:
    matrix = psd(width)
    found = hk.inverse_hessian(matrix, damping=damping)
    damped = matrix + damping * matrix.diagonal().mean() * torch.eye(width, dtype=F64)
    assert isinstance(found.matrix, Tensor)
    assert relative_error(found.matrix, torch.linalg.inv(damped)) < 1e-9
    assert float(found.condition) == pytest.approx(float(torch.linalg.cond(damped, 1)), rel=1e-8)
    assert (float(found.damping), int(found.status)) == (pytest.approx(damping), 0)
    assert found.status.dtype == torch.int32 and found.damping.dim() == 0


def test_fp32_is_as_good_as_plain_torch() -> None:
    matrix = psd(200, torch.float32)
    damped = matrix.double() + 0.01 * matrix.double().diagonal().mean() * torch.eye(200)
    want = torch.linalg.inv(damped)
    found = hk.inverse_hessian(matrix).matrix
    assert isinstance(found, Tensor) and found.dtype == torch.float32
    plain = relative_error(torch.linalg.inv(damped.float()), want)
    assert relative_error(found, want) <= 2 * plain + 1e-7


@pytest.mark.parametrize("block", [1, 4, 16, 17, 40])
def test_block_size_inverts_the_diagonal_blocks(block: int) -> None:
    matrix = psd(17)
    shift = 0.01 * matrix.diagonal().mean() * torch.eye(17, dtype=F64)
    want, full = torch.zeros(17, 17, dtype=F64), torch.zeros(17, 17, dtype=F64)
    for start in range(0, 17, block):
        at = slice(start, start + block)
        full[at, at] = (matrix + shift)[at, at]
        want[at, at] = torch.linalg.inv(full[at, at])
    found = hk.inverse_hessian(matrix, block_size=block)
    assert isinstance(found.matrix, Tensor)
    assert relative_error(found.matrix, want) < 1e-10
    assert torch.equal(found.matrix == 0, want == 0)
    assert float(found.condition) == pytest.approx(float(torch.linalg.cond(full, 1)), rel=1e-8)


def test_leading_dimensions_and_lists() -> None:
    stack = torch.stack([psd(9, seed=seed) for seed in range(6)]).view(2, 3, 9, 9)
    found = hk.inverse_hessian(stack)
    assert isinstance(found.matrix, Tensor) and found.status.shape == (2, 3)
    several = [psd(9, seed=4), psd(5), psd(12)]
    listed = hk.inverse_hessian(several)
    assert listed.status.shape == (3,)
    torch.testing.assert_close(listed.matrix[0], found.matrix[1, 1])
    for matrix, inverse in zip(several, listed.matrix, strict=True):
        torch.testing.assert_close(inverse, hk.inverse_hessian(matrix).matrix)


@pytest.mark.parametrize(
    ("share", "asked", "used"),
    [(0.005, 0.01, 0.01), (0.015, 0.01, 0.02), (0.3, 0.01, 0.5), (0.3, 0.25, 0.5), (0.9, 0.0, 1.0)],
)
def test_the_ladder_is_climbed_no_further_than_needed(
    share: float, asked: float, used: float
) -> None:
    matrix = with_lowest(12, share)
    found = hk.inverse_hessian(matrix, damping=asked)
    assert float(found.damping) == pytest.approx(used)
    shift = used * matrix.diagonal().mean() * torch.eye(12, dtype=F64)
    assert isinstance(found.matrix, Tensor)
    assert relative_error(found.matrix, torch.linalg.inv(matrix + shift)) < 1e-8


def test_only_failed_matrices_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = torch.linalg.cholesky_ex

    def spy(matrices: Tensor) -> tuple[Tensor, Tensor]:
        tried.append(matrices.shape[0])
        return original(matrices)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", spy)
    good = psd(12)
    batch = torch.stack([good, with_lowest(12, 0.03), good, with_lowest(12, 0.15)])
    found = hk.inverse_hessian(batch)
    assert tried == [4, 2, 2, 1, 1]
    assert found.damping.tolist() == pytest.approx([0.01, 0.05, 0.01, 0.2])
    assert torch.equal(found.matrix[0], torch.as_tensor(hk.inverse_hessian(good).matrix))


def test_a_matrix_is_one_unit_for_the_ladder() -> None:
    """Its second block alone needs more damping; the first must follow, another matrix must not."""
    joined = torch.block_diag(torch.eye(3), torch.tensor([[1.0, 1.1], [1.1, 1.0]])).double()
    found = hk.inverse_hessian(torch.stack([joined, torch.eye(5, dtype=F64)]), block_size=3)
    assert found.damping.tolist() == pytest.approx([0.2, 0.01])
    assert found.matrix[0][0, 0].item() == pytest.approx(1 / 1.2)


def test_dead_neurons_get_a_unit_pivot() -> None:
    matrix = 1e-6 * psd(9)
    matrix[4], matrix[:, 4] = 0, 0
    live = torch.arange(9) != 4
    found = hk.inverse_hessian(matrix, damping=0.02)
    assert isinstance(found.matrix, Tensor)
    assert found.matrix[4, 4] == 1 and found.matrix[4, live].count_nonzero() == 0
    damped = matrix[live][:, live] + 0.02 * matrix.diagonal().mean() * torch.eye(8, dtype=F64)
    assert relative_error(found.matrix[live][:, live], torch.linalg.inv(damped)) < 1e-9
    assert float(found.condition) == pytest.approx(float(torch.linalg.cond(damped, 1)), rel=1e-8)


def test_all_dead_is_the_identity_and_says_ok() -> None:
    found = hk.inverse_hessian(torch.zeros(3, 3))
    assert torch.equal(torch.as_tensor(found.matrix), torch.eye(3))
    assert int(found.status) == 0


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_input_is_found_first(poison: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = torch.linalg.cholesky_ex
    monkeypatch.setattr(
        torch.linalg, "cholesky_ex", lambda m: (tried.append(len(m)), original(m))[1]
    )
    bad = psd(6)
    bad[5, 0] = poison
    with pytest.raises(
        FactorizationError, match=r"curvature of layers\.3\.q holds NaN or infinity"
    ):
        hk.inverse_hessian([psd(6), bad], names=["layers.2.q", "layers.3.q"])
    assert tried == [1]


def test_the_error_names_the_matrix_the_minor_and_the_way_out() -> None:
    hopeless = torch.eye(5)
    hopeless[3, 3] = -3.0
    with pytest.raises(FactorizationError) as caught:
        hk.inverse_hessian(torch.stack([torch.eye(5), hopeless]), names=["first", "second"])
    message = str(caught.value)
    for part in ("second", "order 4", "damping 1", "more tokens", "larger damping", "block size"):
        assert part in message
    with pytest.raises(FactorizationError, match="matrix 1"):
        hk.inverse_hessian(torch.stack([torch.eye(5), hopeless]))


@pytest.mark.parametrize("block", [None, 2])
def test_without_a_check_the_status_tells(block: int | None) -> None:
    hopeless, broken = torch.eye(5), torch.eye(5)
    hopeless[3, 3], broken[4, 0] = -3.0, torch.nan
    batch = torch.stack([torch.eye(5), hopeless, broken])
    found = hk.inverse_hessian(batch, check=False, block_size=block)
    assert found.status.tolist() == [0, 4, -1]
    assert isinstance(found.matrix, Tensor)
    assert found.matrix[0].isfinite().all() and found.matrix[1:].isnan().all()
    assert found.damping[:2].tolist() == pytest.approx([0.01, 1.0])


def test_rank_deficient_is_damped_not_refused() -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    found = hk.inverse_hessian(x.T @ x / 3)
    assert int(found.status) == 0 and float(found.damping) == pytest.approx(0.01)
    assert 100 < float(found.condition) < 1e5


def test_a_damping_above_the_ladder_is_tried_alone() -> None:
    with pytest.raises(FactorizationError, match="damping 3"):
        hk.inverse_hessian(-torch.eye(4), damping=3.0)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 40), seed=st.integers(0, 1000))
def test_condition_estimate_is_a_close_lower_bound(width: int, seed: int) -> None:
    matrix = psd(width, seed=seed)
    exact = float(torch.linalg.cond(matrix, 1))
    factor = torch.linalg.cholesky(matrix)[None, None]
    norm = torch.linalg.matrix_norm(matrix, 1)[None]
    found = float(
        driver.condition_estimate(factor, norm, torch.zeros(1, 1, width, dtype=torch.bool))[0]
    )
    assert exact / 3 <= found <= exact * (1 + 1e-9)
