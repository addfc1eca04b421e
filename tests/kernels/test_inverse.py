"""The damped inverse: values, the ladder, dead neurons, and every way to fail."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels import native
from hcnr_kernels.errors import FactorizationError
from hcnr_kernels.ops.inverse import ragged
from hcnr_kernels.ops.inverse import vectorised as driver
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import curvature

F64 = torch.float64


pytestmark = pytest.mark.usefixtures("route")


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


@pytest.mark.parametrize("block", [None, 8])
def test_a_list_equals_one_by_one(block: int | None) -> None:
    """Unequal sizes, dead neurons, one that needs more damping, two that no damping helps."""
    several = [psd(9), psd(5), with_lowest(12, 0.03), psd(16), psd(8, seed=3), -psd(7), psd(300)]
    several[3][4], several[3][:, 4] = 0, 0
    several[4][7, 2] = torch.nan
    listed = hk.inverse_hessian(several, block_size=block, check=False)
    for place, matrix in enumerate(several):
        alone = hk.inverse_hessian(matrix, block_size=block, check=False)
        assert int(listed.status[place]) == int(alone.status)
        assert isinstance(alone.matrix, Tensor)
        torch.testing.assert_close(listed.matrix[place], alone.matrix, equal_nan=True)
        for name in ("damping", "condition"):
            found, want = getattr(listed, name)[place], getattr(alone, name)
            if name == "condition" or alone.status >= 0:
                torch.testing.assert_close(found, want, equal_nan=True)
    assert [code > 0 for code in listed.status.tolist()] == [False] * 5 + [True, False]


def test_a_list_is_inverted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = native.invert_blocks

    def counted(blocks: Tensor | list[Tensor], shifts: Tensor) -> object:
        calls.append(len(blocks))
        return original(blocks, shifts)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(native, "invert_blocks", counted)
    hk.inverse_hessian([psd(64), psd(48), psd(80)], block_size=16)
    hk.inverse_hessian([psd(64), psd(48), psd(80)])
    assert calls == ([4 + 3 + 5, 3] if native.unavailable("cpu", F64, 80) is None else [])


def test_lists_are_grouped_by_what_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few blocks of a width share a table; many have a call; what is too wide spoils neither."""
    calls: list[tuple[str, int]] = []

    def given(blocks: Tensor) -> driver.Inverses:
        count = len(blocks)
        return driver.Inverses(blocks, torch.zeros(count).int(), torch.ones(count, 2))

    def stack(blocks: Tensor, *_: Tensor) -> driver.Inverses:
        calls.append(("stack", len(blocks)))
        return given(blocks)

    def table(stacks: list[Tensor], _: list[Tensor]) -> list[driver.Inverses]:
        calls.append(("table", len(stacks)))
        return list(map(given, stacks))

    monkeypatch.setattr(native, "unavailable", lambda _, __, size: "wide" if size > 99 else None)
    monkeypatch.setattr(ragged, "invert_stack", stack)
    monkeypatch.setattr(ragged, "_invert_table", table)

    def inverted(*shapes: tuple[int, int]) -> None:
        stacks = [torch.ones(count, width, width) for count, width in shapes]
        units = [torch.zeros(count, width) for count, width in shapes]
        found = ragged.invert_stacks(stacks, [torch.ones(count) for count, _ in shapes], units)
        assert [one.results.shape for one in found] == [stack.shape for stack in stacks]

    inverted((1, 5), (1, 100), (2, 6), (1, 7))
    inverted((10, 5), (1, 6), (10, 5), (1, 100), (1, 100))
    assert calls == [("table", 3), ("stack", 1), ("stack", 20), ("stack", 1), *[("stack", 1)] * 2]


def test_a_list_of_different_dtypes() -> None:
    found = hk.inverse_hessian([psd(5), psd(6, torch.float32)])
    assert [one.dtype for one in found.matrix] == [F64, torch.float32]


def test_what_a_training_script_allows_does_not_reach_the_products() -> None:
    before = torch.get_float32_matmul_precision()
    matrix = psd(300, torch.float32)
    want = hk.inverse_hessian(matrix).matrix
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            alone = hk.inverse_hessian(matrix).matrix
            listed = hk.inverse_hessian([matrix, psd(1100, torch.float32)]).matrix
        assert torch.get_float32_matmul_precision() == "medium"
        setting = torch.backends.cuda.matmul
        assert getattr(setting, "fp32_precision", "tf32") == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(torch.as_tensor(alone), torch.as_tensor(want))
    assert torch.equal(listed[0], torch.as_tensor(want))


@pytest.mark.parametrize("width", [5, 256, 1100])
def test_a_large_diagonal_does_not_overflow_its_mean(width: int) -> None:
    found = hk.inverse_hessian(1e38 * torch.eye(width))
    assert isinstance(found.matrix, Tensor) and int(found.status) == 0
    torch.testing.assert_close(found.matrix, torch.eye(width) / 1.01e38)


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


def spy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many matrices every attempt takes, as they come."""
    tried: list[int] = []
    original = driver.invert_stack

    def counted(blocks: Tensor, shift: Tensor, unit: Tensor) -> driver.Inverses:
        tried.append(len(blocks))
        return original(blocks, shift, unit)

    for module in (driver, ragged):
        monkeypatch.setattr(module, "invert_stack", counted)
    return tried


def test_only_failed_matrices_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = spy(monkeypatch)
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
    tried = spy(monkeypatch)
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


POISONS = (torch.nan, torch.inf, -torch.inf)


@st.composite
def hessians(draw: st.DrawFn) -> tuple[Tensor, int, str]:
    """A float64 matrix, how many neurons of it are alive, and what was planted in it."""
    width, seed = draw(st.integers(1, 300)), draw(st.integers(0, 99))
    rank = draw(st.integers(1, 2 * width))
    scale = 10.0 ** draw(st.integers(-12, 12))
    tokens = torch.randn(rank, width, generator=torch.Generator().manual_seed(seed), dtype=F64)
    matrix = tokens.T @ tokens * (scale / rank)
    planted = draw(st.sampled_from(["nothing", "dead", "copy", "poison", "negative"]))
    place, other = draw(st.integers(0, width - 1)), draw(st.integers(0, width - 1))
    live = width
    if planted == "dead":
        matrix[place], matrix[:, place] = 0, 0
        live -= 1
    elif planted == "copy":
        matrix[place], matrix[:, place] = matrix[other].clone(), matrix[:, other].clone()
        matrix[place, place] = matrix[other, other]
    elif planted == "poison":
        matrix[place, other] = draw(st.sampled_from(POISONS))
    elif planted == "negative":
        matrix[place, place] = -3 * width * scale
    return matrix, live, planted


@settings(max_examples=120, deadline=None)
@given(
    drawn=st.lists(hessians(), min_size=1, max_size=3),
    block=st.one_of(st.none(), st.integers(1, 300)),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_a_result_or_the_right_status(
    drawn: list[tuple[Tensor, int, str]], block: int | None, dtype: torch.dtype
) -> None:
    matrices = [matrix.to(dtype) for matrix, _, _ in drawn]
    found = hk.inverse_hessian(matrices, block_size=block, check=False)
    facts = zip(found.matrix, found.status.tolist(), found.damping.tolist(), strict=True)
    for single, (_, live, planted), (inverse, status, used) in zip(
        matrices, drawn, facts, strict=True
    ):
        width = len(single)
        if planted == "poison":
            assert status == -1 and inverse.isnan().all()
            continue
        exact = single.double()
        inside = torch.arange(width) // (block or width)
        exact = exact * (inside[:, None] == inside)
        shift = used * single.double().diagonal().mean()
        damped = exact + shift * torch.eye(width, dtype=F64)
        dead = single.diagonal() == 0
        damped.diagonal()[dead] = 1
        lowest = float(torch.linalg.eigvalsh(damped[~dead][:, ~dead])[0]) if live else 1.0
        if status:
            # A wrong pivot is only ever a negative one, up to rounding.
            assert inverse.isnan().all() and status > 0
            assert used == pytest.approx(1.0)
            minor = damped[:status, :status]
            assert float(torch.linalg.eigvalsh(minor)[0]) <= 1e-5 * float(minor.abs().max())
            continue
        assert planted != "negative"
        assert lowest > 0 and used == pytest.approx(0.01)
        condition = float(torch.linalg.cond(damped[~dead][:, ~dead], 1)) if live else 0.0
        rounding = 2e-6 if dtype == torch.float32 else 1e-14
        want = torch.linalg.inv(damped)
        assert relative_error(inverse, want) <= rounding * max(condition, 10)
        assert torch.equal(inverse, inverse.T)
        place = drawn_place(found.condition, matrices, single)
        assert place == pytest.approx(condition, rel=max(1e-6, 10 * rounding * condition))


def drawn_place(condition: Tensor, matrices: list[Tensor], single: Tensor) -> float:
    """The condition found for one of the matrices."""
    return float(condition[[matrix is single for matrix in matrices].index(True)])


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(130, 300),
    width=st.sampled_from([33, 64, 70]),
    broken=st.sets(st.integers(0, 129), max_size=5),
    hopeless=st.sets(st.integers(0, 129), max_size=5),
    poisoned=st.sets(st.integers(0, 129), max_size=3),
)
def test_many_blocks_share_nothing(
    count: int, width: int, broken: set[int], hopeless: set[int], poisoned: set[int]
) -> None:
    stack = psd(width, torch.float32).expand(count, width, width).clone()
    for place in broken:
        stack[place] = with_lowest(width, 0.03).float()
    for place in hopeless:
        stack[place, 5, 4] = stack[place, 4, 5] = 1e3 * width
    for place in poisoned:
        stack[place, 1, 0] = torch.nan
    found = hk.inverse_hessian(stack, check=False)
    assert isinstance(found.matrix, Tensor)
    clean = hk.inverse_hessian(psd(width, torch.float32)).matrix
    assert isinstance(clean, Tensor)
    for place in range(count):
        status, used = int(found.status[place]), float(found.damping[place])
        if place in poisoned:
            assert status == -1 and found.matrix[place].isnan().all()
        elif place in hopeless:
            assert status == 6 and used == 1 and found.matrix[place].isnan().all()
        elif place in broken:
            assert status == 0 and used == pytest.approx(0.05)
        else:
            assert status == 0 and used == pytest.approx(0.01)
            assert relative_error(found.matrix[place], clean) < 1e-5


def test_one_large_matrix_climbs_the_ladder() -> None:
    matrix = with_lowest(256, 0.03)
    found = hk.inverse_hessian(matrix)
    assert float(found.damping) == pytest.approx(0.05) and int(found.status) == 0
    shift = 0.05 * matrix.diagonal().mean() * torch.eye(256, dtype=F64)
    assert isinstance(found.matrix, Tensor)
    assert relative_error(found.matrix, torch.linalg.inv(matrix + shift)) < 1e-8
    matrix[200, 200] = -300
    found = hk.inverse_hessian(matrix, check=False)
    assert (int(found.status), float(found.damping)) == (201, pytest.approx(1.0))
    assert isinstance(found.matrix, Tensor) and found.matrix.isnan().all()


@pytest.mark.parametrize("width", [5, 256])
def test_beyond_the_range_of_the_dtype_is_a_failure(width: int) -> None:
    """1e-41 is finite, its reciprocal is not."""
    found = hk.inverse_hessian(1e-41 * torch.eye(width), check=False)
    assert int(found.status) > 0
    assert isinstance(found.matrix, Tensor) and found.matrix.isnan().all()
