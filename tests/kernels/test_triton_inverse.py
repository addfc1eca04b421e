"""The elimination of one large matrix by Triton kernels, interpreted on the CPU."""

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime import interpreter

import hcnr_kernels as hk
from bench.tracking.counting import count
from hcnr_kernels.ops.compensation import vectorised as compensation
from hcnr_kernels.ops.inverse import factor
from hcnr_kernels.ops.inverse import triton as fused
from hcnr_kernels.ops.inverse import vectorised as driver
from hcnr_kernels.ops.inverse.solves import solve_, solver_of
from hcnr_kernels.ops.inverse.tiling import GPU_TILING
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.hard_matrices import lower_only, residual, spectra
from hcnr_kernels.testing.tensors import alternate, curvature, randn
from hcnr_kernels.triton import launch, tiles
from hcnr_kernels.triton.launch import recording

pytestmark = pytest.mark.usefixtures("poisoned")

interpreted = pytest.mark.skipif(
    not launch.interpreting(), reason="needs TRITON_INTERPRET=1: there is no GPU to run kernels on"
)
WIDTHS = (1, 17, 32, 33, 64, 100)
"""Around one, two and four squares of 32 and their halves; some rows are no whole vectors."""

F32, F64 = torch.float32, torch.float64


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 32: several in a matrix that the interpreter gets through."""
    monkeypatch.setattr(
        tiles, "elimination_tile", lambda _: tiles.Tile(32, 16, 16, num_warps=8, num_stages=2)
    )


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    """The operators go where they would on a GPU without the compiled extension."""
    monkeypatch.setattr(driver.native, "unavailable", lambda *_: "switched off")
    monkeypatch.setattr(driver, "recursion_is_faster", lambda *_: True)
    monkeypatch.setattr(driver, "tiling_for", lambda _: GPU_TILING)
    monkeypatch.setattr(compensation, "tiling_for", lambda _: GPU_TILING)
    monkeypatch.setattr(compensation, "LARGE", 16)


def psd(width: int, seed: int = 0) -> Tensor:
    """Damped."""
    matrix = curvature(width, device="cpu", dtype=F32, seed=seed)
    return matrix + 0.01 * matrix.diagonal().mean() * torch.eye(width)


def limit_of(matrix: Tensor) -> float:
    return 1e-7 * max(10.0, float(torch.linalg.cond(matrix.double())))


@interpreted
@pytest.mark.parametrize("width", WIDTHS)
def test_inverse_rows_and_solve(width: int, small: None) -> None:
    """In place, from the lower triangle alone, and the solves that start from either factor."""
    matrix = psd(width)
    want, limit = torch.linalg.inv(matrix.double()), limit_of(matrix)
    inverse = lower_only(matrix)
    assert int(factor.invert_(inverse, GPU_TILING)) == 0
    assert relative_error(inverse, want) < limit
    assert torch.equal(inverse, inverse.T)
    right = randn(3, width, device="cpu", dtype=F32, seed=1)
    solved, split = right.double() @ want, 2 * width // 3
    for rows in (True, False):
        found = factor.cholesky_(lower_only(matrix), GPU_TILING, split, rows=rows)
        assert int(found.order) == 0
        assert relative_error(solve_(found, right.clone(), GPU_TILING), solved) < limit
        assert relative_error(solver_of(found, GPU_TILING)(right.clone()), solved) < limit
        if rows:
            below = factor.inverse_rows_(found, split, GPU_TILING)
            assert relative_error(below, want[split:]) < limit
            assert torch.equal(below[:, split:], below[:, split:].T)


@interpreted
@pytest.mark.parametrize("width", [64, 90])
def test_the_factor_and_its_inverse_are_kept(width: int, small: None) -> None:
    matrix = psd(width)
    root = torch.linalg.cholesky(matrix.double())
    inverse = torch.linalg.inv(root)
    alone, kept = (
        factor.cholesky_(lower_only(matrix), GPU_TILING, rows=rows) for rows in (False, True)
    )
    for low, high in alone.tiles(0, width):
        for found in (alone, kept):
            below = found.factor[high:, low:high]
            assert relative_error(below, root[high:, low:high]) < 1e-5
            assert relative_error(found.corners[low], inverse[low:high, low:high]) < 1e-5
    assert relative_error(kept.factor.triu().T, inverse) < 1e-5


@interpreted
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("width", [20, 70])
def test_the_first_failing_minor_is_named(width: int, rows: bool, small: None) -> None:
    """Whatever follows it is not looked at: another minor fails later."""
    for place, value in ((0, 0.0), (15, -1.0), (16, torch.nan), (min(47, width - 1), -1.0)):
        matrix = psd(width)
        matrix[-1, -1] = -2
        matrix[place, place] = value
        found = factor.cholesky_(lower_only(matrix), GPU_TILING, width // 3, rows=rows)
        assert int(found.order) == place + 1


@interpreted
def test_nothing_beside_the_matrix_is_touched(small: None) -> None:
    room = torch.zeros(3, 72, 80)
    for inside in (room[1, 1:65, 16:80], room[1, 1:71, 2:72]):
        room.zero_()
        inside.copy_(lower_only(psd(len(inside))))
        factor.invert_(inside, GPU_TILING)
        assert relative_error(inside, torch.linalg.inv(psd(len(inside)).double())) < 1e-5
        inside.zero_()
        assert room.count_nonzero() == 0


@interpreted
def test_programs_may_run_in_any_order(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program reads no other one of its launch writes: bits do not depend on the order."""
    matrix, results = lower_only(psd(70)), []
    forward = interpreter.InterpreterBuilder.set_grid_idx

    def backward(builder: interpreter.InterpreterBuilder, x: int, y: int, z: int) -> None:
        forward(builder, builder.grid_dim[0] - 1 - x, y, z)  # pyright: ignore[reportAttributeAccessIssue]

    for order in (forward, backward):
        monkeypatch.setattr(interpreter.InterpreterBuilder, "set_grid_idx", order)
        found = factor.cholesky_(matrix.clone(), GPU_TILING, 40, rows=True)
        below = factor.inverse_rows_(found, 40, GPU_TILING)
        alone = factor.cholesky_(matrix.clone(), GPU_TILING)
        results.append([found.factor, below, alone.factor.tril(-33), *alone.corners.values()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def tf32(values: np.ndarray) -> np.ndarray:
    """fp32 numbers rounded to TF32, ties away from zero, as `cvt.rna` does."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def tensor_cores(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter multiply fp32 as tensor cores do, by one or by three TF32 products.

    Sums of eight products are cut off, not rounded, when they are added to what is there.
    """

    def cut(values: np.ndarray) -> np.ndarray:
        single = values.astype(np.float32)
        far = np.abs(single.astype(np.float64)) > np.abs(values)
        return np.where(far, np.nextafter(single, np.float32(0)), single)

    def dot(builder: object, a, b, d, precision, most):
        assert a.data.dtype == np.float32 and precision.name == "TF32x3"
        left, right = tf32(a.data), tf32(b.data)
        pairs = [(left, right)]
        if parts == 3:
            low_left, low_right = tf32(a.data - left), tf32(b.data - right)
            pairs = [(low_left, right), (left, low_right), (left, right)]
        total = np.zeros(d.data.shape, np.float32)
        for one, other in pairs:
            for k in range(0, one.shape[1], 8):
                part = one[:, k : k + 8].astype(np.float64) @ other[k : k + 8].astype(np.float64)
                total = cut(total.astype(np.float64) + part)
        return interpreter.TensorHandle(total + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


@interpreted
@pytest.mark.parametrize("condition", [1e4, 1e6])
def test_three_tf32_products_are_as_exact_as_torch(
    condition: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `test_factor.test_fp32_is_as_exact_as_torch`, whose limits these are."""
    square = tiles.Tile(64, 16, 32, num_warps=8, num_stages=2)
    monkeypatch.setattr(tiles, "elimination_tile", lambda _: square)
    tensor_cores(3, monkeypatch)
    rounding = torch.finfo(F32).eps / 2 * condition
    for name, matrix in spectra(200, condition).items():
        single = ((matrix + matrix.T) / 2).float()
        want = torch.linalg.inv(single.double())
        plain = relative_error(torch.cholesky_inverse(torch.linalg.cholesky(single)), want)
        found = single.clone()
        assert int(factor.invert_(found, GPU_TILING)) == 0
        assert relative_error(found, want) <= 3 * max(plain, rounding / 8) + 1e-6, name
        assert residual(single, found) <= 5e-8 * condition**0.5, name


@interpreted
def test_one_tf32_product_would_not_do(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    single = spectra(70, 1e4)["even"].float()
    want = torch.linalg.inv(single.double())
    plain = relative_error(torch.cholesky_inverse(torch.linalg.cholesky(single)), want)
    errors = []
    for parts in (3, 1):
        tensor_cores(parts, monkeypatch)
        found = single.clone()
        factor.invert_(found, GPU_TILING)
        errors.append(relative_error(found, want))
    assert errors[0] <= 3 * plain < 100 * plain < errors[1]


@interpreted
def test_the_operator_with_dead_neurons_and_the_ladder(on_gpu: None) -> None:
    several = [psd(50), psd(48, seed=1), psd(52, seed=2), psd(33, seed=3)]
    several[1][4], several[1][:, 4] = 0, 0
    several[2] -= 0.03 * several[2].diagonal().mean() * torch.eye(52)
    several[3][2, 1] = torch.nan
    used: list[float] = []
    for place, matrix in enumerate(several):
        found = hk.inverse_hessian(matrix, check=False)
        assert isinstance(found.matrix, Tensor)
        used.append(float(found.damping))
        if place == 3:
            assert int(found.status) == -1 and bool(found.matrix.isnan().all())
            continue
        wide = matrix.double()
        damped = wide + float(found.damping) * wide.diagonal().mean() * torch.eye(len(matrix))
        if place == 1:
            damped[4, 4] = 1
        assert int(found.status) == 0
        assert relative_error(found.matrix, torch.linalg.inv(damped)) < limit_of(damped)
    assert used[0] == used[1] == pytest.approx(0.01)
    assert used[2] > 0.01


@interpreted
@pytest.mark.parametrize("kind", ["sum", "joint", "balanced"])
def test_compensations_go_through_it(
    kind: str, on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without it: also the condition, which solves with the factor."""
    neurons = 60
    delta, hessian = randn(neurons, 9, device="cpu", dtype=F32), psd(neurons)
    task = psd(neurons, seed=5) if kind == "balanced" else None
    arguments = delta, alternate(neurons, "cpu"), hessian, "output", kind, task, 1.0, 0.01, None
    calls: list[str] = []
    for name in ("factor_", "invert_"):
        original = getattr(fused, name)
        monkeypatch.setattr(
            fused,
            name,
            lambda *a, name=name, run=original, **k: (calls.append(name), run(*a, **k))[1],
        )
    found = compensation.compensation_ex(*arguments)
    assert calls == ["invert_" if kind == "sum" else "factor_"]
    for module in (driver, compensation):
        monkeypatch.setattr(module, "tiling_for", lambda _: GPU_TILING._replace(fused=False))
    want = compensation.compensation_ex(*arguments)
    assert len(calls) == 1
    for one, other in zip(found, want, strict=True):
        assert relative_error(one, other) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("width", [257, 1000, 1536, 2048])
def test_on_a_gpu(width: int) -> None:
    """Against float64 at a condition of 1e6, twice with the same bits, and what fails first."""
    for name, matrix in spectra(width, 1e6).items():
        single = ((matrix + matrix.T) / 2).float()
        want = torch.linalg.inv(single.double())
        plain = relative_error(torch.cholesky_inverse(torch.linalg.cholesky(single)), want)
        results = [lower_only(single).cuda() for _ in range(2)]
        assert [int(factor.invert_(result, GPU_TILING)) for result in results] == [0, 0]
        assert torch.equal(*results), name
        assert relative_error(results[0], want) <= 3 * max(plain, 4e-3) + 1e-6, name
        split = width // 3
        found = factor.cholesky_(lower_only(single).cuda(), GPU_TILING, split, rows=True)
        alone = factor.cholesky_(lower_only(single).cuda(), GPU_TILING)
        right = randn(3, width, device="cpu", dtype=F32)
        for one in (found, alone):
            solved = solver_of(one, GPU_TILING)(right.cuda())
            assert relative_error(solved, right.double() @ want) <= 3 * max(plain, 4e-3), name
        rows = factor.inverse_rows_(found, split, GPU_TILING)
        assert relative_error(rows, want[split:]) <= 3 * max(plain, 4e-3) + 1e-6, name
    for place in (0, 130, width - 1):
        matrix = psd(width)
        matrix[place, place] = -1
        assert int(factor.invert_(matrix.cuda(), GPU_TILING)) == place + 1


def test_float64_and_the_cpu_are_left_to_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor, "interpreting", lambda: False)
    monkeypatch.setattr(factor, "_kernels", lambda: pytest.fail("the kernels were asked for"))
    matrix = psd(40)
    for wide in (matrix, matrix.double()):
        found = factor.cholesky_(wide.clone(), GPU_TILING)
        assert relative_error(factor.inverse_(found, GPU_TILING), wide.double().inverse()) < 1e-4
    monkeypatch.setattr(factor, "interpreting", lambda: True)
    monkeypatch.setattr(factor, "missing", lambda: "triton is not installed")
    factor.cholesky_(matrix.clone(), GPU_TILING)


@pytest.mark.parametrize(("width", "squares"), [(1024, 8), (4096, 32), (14336, 112)])
def test_two_launches_a_step(width: int, squares: int) -> None:
    """And no product of the library: that is all there is to an inverse."""
    matrix = torch.empty(width, width, device="meta")
    whole = count(lambda: factor.invert_(matrix, GPU_TILING))
    assert whole.launches == 2 * squares + 3
    alone = count(lambda: factor.cholesky_(matrix, GPU_TILING))
    assert alone.launches == 2 * squares
    with recording(90) as seen:
        found = factor.cholesky_(matrix, GPU_TILING, width // 2, rows=True)
        factor.inverse_rows_(found, width // 2, GPU_TILING)
    assert len(seen) == 2 * squares + 2
    # One program takes the next square of the diagonal, and one finds that out and ends.
    updates = [one.grid - 1 for one in seen if one.kernel is fused.eliminate_kernel]
    half, all_ = squares // 2, squares * (squares + 1) // 2
    above = [k * (k + 1) // 2 for k in range(1, half + 1)]
    assert updates == [0, *(all_ - one for one in above), *[all_ - above[-1]] * half]
