"""Triton kernels of the curvature, the perturbation norms and the merge, interpreted on the CPU."""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from hcnr_kernels.chunks import TEMPORARY_BYTES
from hcnr_kernels.ops.gram.triton import gram_, lower_square, symmetrize_, triangle
from hcnr_kernels.ops.merge import vectorised
from hcnr_kernels.ops.merge.triton import merge
from hcnr_kernels.ops.perturbation.triton import perturbation
from hcnr_kernels.testing.accuracy import TOLERANCES, relative_error
from hcnr_kernels.testing.tensors import alternate, randn
from hcnr_kernels.triton import launch, tiles
from hcnr_kernels.triton.tiles import Tile

interpreted = pytest.mark.skipif(
    not launch.interpreting(), reason="needs TRITON_INTERPRET=1: there is no GPU to run kernels on"
)
compiled = pytest.mark.skipif(
    launch.interpreting(), reason="TRITON_INTERPRET=1 replaces the kernels by Python functions"
)

FLOATS = launch.FLOATS
INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
SMALL = Tile(m=16, n=32, k=16, num_warps=4, num_stages=2)


def contiguous(x: Tensor) -> Tensor:
    return x.clone()


def transposed(x: Tensor) -> Tensor:
    return x.T.clone(memory_format=torch.contiguous_format).T


def columns_cut(x: Tensor) -> Tensor:
    """Odd address, odd stride."""
    wide = torch.full((x.shape[0], x.shape[1] + 3), torch.nan, dtype=x.dtype)
    wide[:, 1:-2] = x
    return wide[:, 1:-2]


def every_other(x: Tensor) -> Tensor:
    wide = torch.full((2 * x.shape[0], 2 * x.shape[1]), torch.nan, dtype=x.dtype)
    wide[::2, 1::2] = x
    return wide[::2, 1::2]


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (contiguous, transposed, columns_cut, every_other)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(INTEGER[tensor.dtype])


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `torch.empty` returns may hold anything: here NaN."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: Tensor) -> Tensor:
        return (
            tensor if tensor.is_meta or not tensor.is_floating_point() else tensor.fill_(torch.nan)
        )

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))


# The choice of tiles.


@given(
    count=st.integers(1, 20000),
    tokens=st.integers(0, 70000),
    capability=st.sampled_from([80, 90, 100]),
    itemsize=st.sampled_from([2, 4]),
)
def test_divided_tokens_are_all_there(
    count: int, tokens: int, capability: int, itemsize: int
) -> None:
    tile = tiles.gram_tile(itemsize, True, capability)
    found = tiles.divide_tokens(count, tokens, tile, capability)
    rest = count - found.whole
    assert 0 <= rest < 2 * tiles.multiprocessors(capability)
    assert found.share % tile.k == 0 and found.parts * found.share >= tokens
    assert found.parts == 1 or (found.parts - 1) * found.share < tokens
    assert rest * found.parts * tile.m * tile.n * 4 <= TEMPORARY_BYTES
    assert (rest == 0) == (found.parts == 1)


def test_few_tiles_are_divided() -> None:
    tile = tiles.gram_tile(2, True, 90)
    whole, parts, _ = tiles.divide_tokens(3, 32768, tile, 90)
    assert whole == 0 and parts > 8
    assert tiles.divide_tokens(3, tile.k, tile, 90).parts == 1
    assert tiles.divide_tokens(272, 32768, tile, 90).whole == 264


@pytest.mark.parametrize(
    ("width", "itemsize", "library"),
    [(1024, 2, True), (1025, 2, False), (63, 4, False), (14336, 2, False)],
)
def test_who_forms_a_gram(width: int, itemsize: int, library: bool) -> None:
    assert tiles.gram_by_library(width, itemsize) is library


@given(
    rows=st.integers(0, 3000),
    columns=st.integers(0, 3000),
    itemsize=st.sampled_from([2, 4]),
    aligned=st.booleans(),
)
def test_streaming_tiles(rows: int, columns: int, itemsize: int, aligned: bool) -> None:
    tile = tiles.stream_tile(rows, columns, itemsize, aligned)
    assert tile.m & (tile.m - 1) == tile.n & (tile.n - 1) == 0 < tile.m * tile.n
    assert tile.m < 2 * max(1, rows) and tile.n < 2 * max(1, columns)
    assert tile.m * tile.n <= 32 * tile.num_warps * (128 // itemsize if aligned else 8)


@pytest.mark.parametrize(
    ("columns", "strides", "address", "whole"),
    [
        (64, (64, 1), 32, True),
        (64, (65, 1), 32, False),
        (63, (64, 1), 32, False),
        (64, (64, 1), 34, False),
        (64, (1, 64), 32, False),
        (64, (0, 1), 0, True),
    ],
)
def test_whole_vectors(columns: int, strides: tuple[int, int], address: int, whole: bool) -> None:
    assert tiles.whole_vectors(columns, strides, address) is whole


def big_launches(capability: int, tokens: int) -> list[launch.Launch]:
    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    with launch.recording(capability) as found:
        for width in (1000, 4096, 14336):
            gram_(empty(width, width, dtype=torch.float32), empty(tokens, width))
        symmetrize_(empty(4096, 4096, dtype=torch.float64))
        mask = empty(14336, dtype=torch.bool)
        base = empty(14336, 4096)
        perturbation(base, base, mask, "output")
        merge(base, base, mask, empty(14336, 4096, dtype=torch.float32), "output", base.dtype)
    return found


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_shapes_are_enough_to_list_the_launches(capability: int) -> None:
    names = [one.kernel.__name__ for one in big_launches(capability, 32768)]
    assert set(names) == {
        "gram_kernel",
        "gram_add_kernel",
        "symmetrize_kernel",
        "perturbation_kernel",
        "perturbation_add_kernel",
        "merge_kernel",
    }
    assert names.count("gram_kernel") == 2, "a width of 1000 is the library's"


@compiled
def test_another_number_of_tokens_compiles_nothing() -> None:
    def specialized(one: launch.Launch) -> Iterator[object]:
        yield one.kernel.__name__
        yield one.num_warps, one.num_stages
        for parameter in one.kernel.params:
            value = one.arguments[parameter.name]
            if not isinstance(value, Tensor) and not parameter.do_not_specialize:
                yield parameter.name, value

    # 4096 wide on 9.0: always some whole tiles and some divided ones.
    first, second = (
        {tuple(specialized(one)) for one in big_launches(90, tokens)} for tokens in (32768, 4097)
    )
    assert first == second


# The order of the tiles.


@triton.jit
def triangle_kernel(p_index, p_row, p_column, BN: tl.constexpr):
    o = tl.arange(0, BN)
    row, column = triangle(tl.load(p_index + o))
    tl.store(p_row + o, row)
    tl.store(p_column + o, column)


@triton.jit
def square_kernel(p_index, p_row, p_column, side, BN: tl.constexpr, GROUP: tl.constexpr):
    o = tl.arange(0, BN)
    row, column = lower_square(tl.load(p_index + o), side, GROUP)
    tl.store(p_row + o, row)
    tl.store(p_column + o, column)


def places(kernel: Any, indices: list[int], **arguments: int) -> list[tuple[int, int]]:
    length = 1 << max(4, (len(indices) - 1).bit_length())
    index = torch.tensor(indices + [0] * (length - len(indices)))
    row, column = torch.empty_like(index), torch.empty_like(index)
    launch.launch(
        kernel, 1, SMALL, p_index=index, p_row=row, p_column=column, BN=length, **arguments
    )
    return list(zip(row.tolist(), column.tolist(), strict=True))[: len(indices)]


@interpreted
@pytest.mark.parametrize("bound", [200, 65535, 2**20, 1482909])
def test_triangular_root_is_exact(bound: int) -> None:
    want = {}
    for row in range(max(0, bound - 150), bound):
        start = row * (row + 1) // 2
        want |= {start: (row, 0), start + 1: (row, 1) if row else (1, 0), start + row: (row, row)}
    assert places(triangle_kernel, list(want)) == list(want.values())


@interpreted
@pytest.mark.parametrize("side", [1, 2, 7, 8, 9, 16, 21])
def test_every_square_once(side: int) -> None:
    count = side * (side + 1) // 2
    found = places(square_kernel, list(range(count)), side=side, GROUP=8)
    assert sorted(found) == [(row, column) for row in range(side) for column in range(row + 1)]
    # Eight rows are walked together, column after column.
    assert [row // 8 for row, _ in found] == sorted(row // 8 for row, _ in found)
    whole = [place for place in found if place[1] < place[0] // 8 * 8]
    assert whole == sorted(whole, key=lambda place: (place[0] // 8, place[1], place[0]))


@interpreted
def test_squares_of_a_huge_triangle() -> None:
    side = 2**20 + 3
    want = {}
    for first in (0, 8, 2**19, 2**20 - 8, 2**20):
        height = min(8, side - first)
        start = first * (first + 1) // 2
        columns = sorted({0, 1, first // 2, first - 1} & set(range(first)))
        want |= {
            start + column * height + row: (first + row, column)
            for column in columns
            for row in range(height)
        }
        want[start + first * height] = (first, first)
        want[start + first * height + height * (height + 1) // 2 - 1] = (first + height - 1,) * 2
    assert places(square_kernel, list(want), side=side, GROUP=8) == list(want.values())


# gram_


@interpreted
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.sampled_from([0, 1, 17, 63, 129, 301]),
    width=st.sampled_from([1, 2, 17, 63, 129, 301]),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
    result=st.sampled_from(LAYOUTS),
)
def test_gram(
    tokens: int, width: int, dtype: torch.dtype, layout: Callable, result: Callable
) -> None:
    x = layout(randn(tokens, width, device="cpu", dtype=dtype, seed=1))
    start = randn(width, width, device="cpu", dtype=torch.float32, seed=2)
    before, gram = x.clone(), result(start)
    gram_(gram, x)
    want = start.double() + x.double().T @ x.double()
    assert relative_error(gram.tril(), want.tril()) <= TOLERANCES[dtype]
    assert torch.equal(bits(x), bits(before))


@interpreted
def test_gram_of_one_repeated_token() -> None:
    x = randn(1, 40, device="cpu", dtype=torch.float32).expand(33, 40)
    gram = torch.zeros(40, 40)
    gram_(gram, x)
    assert relative_error(gram.tril(), (x.double().T @ x.double()).tril()) <= 1e-5


@interpreted
def test_gram_leaves_the_rest_of_a_larger_matrix() -> None:
    larger = torch.full((40, 50), torch.nan)
    larger[2:35, 3:36] = 0
    gram_(larger[2:35, 3:36], randn(5, 33, device="cpu", dtype=torch.float32))
    assert int(larger.isnan().sum()) == 40 * 50 - 33 * 33


@interpreted
@pytest.mark.parametrize(
    ("tokens", "width", "dtype"),
    [
        (15, 17, torch.float32),
        (129, 17, torch.float16),
        (64, 63, torch.bfloat16),
        (129, 63, torch.float32),
        (129, 109, torch.bfloat16),
        (63, 301, torch.bfloat16),
    ],
)
def test_divided_gram(
    tokens: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tiles and divided ones side by side, several squares, tiles beyond the last row."""
    monkeypatch.setattr(tiles, "gram_tile", lambda *_: SMALL)
    division = tiles.Division(whole=2, parts=-(-tokens // 48), share=48)
    monkeypatch.setattr(tiles, "divide_tokens", lambda *_: division)
    x = columns_cut(randn(tokens, width, device="cpu", dtype=dtype))
    start = randn(width, width, device="cpu", dtype=torch.float32, seed=2)
    once, again = start.clone(), start.clone()
    gram_(once, x)
    gram_(again, x)
    want = start.double() + x.double().T @ x.double()
    assert relative_error(once.tril(), want.tril()) <= TOLERANCES[dtype]
    assert torch.equal(bits(once), bits(again))
    untouched = torch.ones(width, width).triu(32).bool()
    assert torch.equal(once[untouched], start[untouched])


@interpreted
def test_a_narrow_gram_is_divided_and_adds_up() -> None:
    x = randn(3000, 40, device="cpu", dtype=torch.bfloat16)
    with launch.recording(90) as found:
        gram_(torch.zeros(40, 40), x)
    assert [one.kernel.__name__ for one in found] == ["gram_kernel", "gram_add_kernel"]
    gram = torch.zeros(40, 40)
    gram_(gram, x)
    assert relative_error(gram.tril(), (x.double().T @ x.double()).tril()) <= 1e-5


@interpreted
def test_gram_of_nothing() -> None:
    gram = torch.full((3, 3), 2.0)
    gram_(gram, torch.zeros(0, 3))
    assert torch.equal(gram, torch.full((3, 3), 2.0))
    gram_(torch.zeros(0, 0), torch.zeros(5, 0))


# symmetrize_


@interpreted
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("width", [0, 1, 17, 63, 64, 129, 301])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_symmetrize(dtype: torch.dtype, width: int, layout: Callable) -> None:
    full = randn(width, width, device="cpu", dtype=dtype)
    full[torch.ones(width, width).triu(1).bool()] = torch.nan
    gram = layout(full)
    symmetrize_(gram)
    lower = full.tril()
    assert torch.equal(gram, lower + lower.tril(-1).T)


@interpreted
def test_symmetrize_copies_bits() -> None:
    gram = torch.zeros(70, 70, dtype=torch.bfloat16)
    bits(gram)[:] = torch.arange(4900).reshape(70, 70).short() * 13 - 30000
    want = bits(gram).tril() + bits(gram).tril(-1).T
    symmetrize_(gram)
    assert torch.equal(bits(gram), want)


# perturbation


def masks(width: int) -> dict[str, Tensor]:
    half = alternate(width, "cpu")
    return {
        "half": half,
        "none": half & False,
        "all": half | True,
        "view": alternate(2 * width, "cpu").repeat_interleave(3)[: 2 * width : 2],
    }


def norms(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> list[float]:
    first, second = base.double(), tuned.double()
    if axis == "input":
        first, second = first.T, second.T
    return [float((first - second)[mask].square().sum()), float(first[mask].square().sum())]


@interpreted
@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([1, 17, 63, 129, 301]),
    columns=st.sampled_from([1, 17, 63, 129, 1301]),
    axis=st.sampled_from(["output", "input"]),
    chosen=st.sampled_from(["half", "none", "all", "view"]),
    dtypes=st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
)
def test_perturbation(
    rows: int,
    columns: int,
    axis: str,
    chosen: str,
    dtypes: tuple[torch.dtype, torch.dtype],
    layouts: tuple[Callable, Callable],
) -> None:
    base = randn(rows, columns, device="cpu", dtype=dtypes[0], seed=1)
    tuned = randn(rows, columns, device="cpu", dtype=dtypes[1], seed=2)
    mask = masks(rows if axis == "output" else columns)[chosen]
    want = norms(base, tuned, mask, axis)
    for weight, bad in ((base, torch.nan), (tuned, torch.inf)):
        (weight if axis == "output" else weight.T)[~mask] = bad
    change, whole = perturbation(layouts[0](base), layouts[1](tuned), mask, axis)
    assert change.dtype == whole.dtype == torch.float32 and change.dim() == whole.dim() == 0
    assert [float(change), float(whole)] == pytest.approx(want, rel=2e-7)
    assert change.data_ptr() != whole.data_ptr()


@interpreted
def test_perturbation_takes_every_candidate_into_account() -> None:
    base = torch.tensor([[1.0, torch.nan, 2.0]])
    change, whole = perturbation(base, torch.zeros(1, 3), torch.ones(3).bool(), "input")
    assert change.isnan() and whole.isnan()


@interpreted
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("axis", ["output", "input"])
def test_perturbation_of_nothing(shape: tuple[int, int], axis: str) -> None:
    base = torch.zeros(shape)
    mask = torch.ones(shape[axis == "input"], dtype=torch.bool)
    assert [float(value) for value in perturbation(base, base, mask, axis)] == [0.0, 0.0]


@interpreted
def test_perturbation_accumulates_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of 2^24 in fp32 would not grow by the small ones; several steps of the second stage."""
    monkeypatch.setattr(tiles, "stream_tile", lambda *_: Tile(2, 4, 1, 4, 1))
    add = tiles.PERTURBATION_ADD._replace(n=16)
    monkeypatch.setattr(tiles, "PERTURBATION_ADD", add)
    base = 0.4 + 0.1 * randn(500, 3, device="cpu", dtype=torch.float32).sigmoid()
    base[0] = 4096
    mask = torch.ones(500, dtype=torch.bool)
    found = perturbation(base, -base, mask, "output")
    assert [float(value) for value in found] == pytest.approx(
        norms(base, -base, mask, "output"), rel=1e-7
    )
    assert torch.equal(torch.stack(found), torch.stack(perturbation(base, -base, mask, "output")))


# merge


@interpreted
@settings(max_examples=80, deadline=None)
@given(
    rows=st.sampled_from([1, 17, 63, 129, 301]),
    columns=st.sampled_from([1, 17, 63, 129, 1301]),
    axis=st.sampled_from(["output", "input"]),
    chosen=st.sampled_from(["half", "none", "all", "view"]),
    dtypes=st.tuples(*[st.sampled_from(FLOATS)] * 3),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    deviates=st.booleans(),
)
def test_merge(
    rows: int,
    columns: int,
    axis: str,
    chosen: str,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    layouts: tuple[Callable, Callable, Callable],
    deviates: bool,
) -> None:
    base = layouts[0](randn(rows, columns, device="cpu", dtype=dtypes[0], seed=1))
    tuned = layouts[1](randn(rows, columns, device="cpu", dtype=dtypes[1], seed=2))
    extra = randn(rows, columns, device="cpu", dtype=torch.float32, seed=3)
    deviation = layouts[2](extra) if deviates else None
    mask = masks(rows if axis == "output" else columns)[chosen]
    merged = merge(base, tuned, mask, deviation, axis, dtypes[2])
    restored = mask[:, None] if axis == "output" else mask[None, :]
    own = base if deviation is None else base.float() + deviation
    want = torch.where(restored, own.to(dtypes[2]), tuned.to(dtypes[2]))
    assert torch.equal(bits(merged), bits(want))
    assert (
        merged.stride() == vectorised.merge(base, tuned, mask, deviation, axis, dtypes[2]).stride()
    )


@interpreted
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_merge_copies_bits(axis: str, dtype: torch.dtype) -> None:
    """Every 16-bit pattern: infinities, NaN with their payloads, -0.0, subnormal numbers."""
    patterns = torch.arange(65536, dtype=torch.int32).reshape(256, 256)
    if dtype == torch.float32:
        patterns = patterns * 65537
    base = patterns.to(INTEGER[dtype]).view(dtype)
    tuned = patterns.flip(0).contiguous().to(INTEGER[dtype]).view(dtype)
    mask = alternate(256, "cpu")
    merged = merge(base, tuned, mask, None, axis, dtype)
    restored = mask[:, None] if axis == "output" else mask[None, :]
    assert torch.equal(bits(merged), torch.where(restored, bits(base), bits(tuned)))


@interpreted
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_merge_of_nothing(shape: tuple[int, int]) -> None:
    base, mask = torch.zeros(shape), torch.ones(shape[0], dtype=torch.bool)
    assert merge(base, base, mask, None, "output", torch.float16).shape == shape


@interpreted
def test_merge_does_not_add_what_it_does_not_restore() -> None:
    base = torch.full((4, 4), torch.nan)
    tuned = torch.full((4, 4), -0.0)
    mask = torch.tensor([False, True, False, False])
    deviation = torch.full((4, 4), torch.inf)
    for axis in ("output", "input"):
        merged = merge(base, tuned, mask, deviation, axis, torch.float32)
        kept = (merged if axis == "output" else merged.T)[~mask]
        assert torch.equal(bits(kept), bits(tuned[:3]))
