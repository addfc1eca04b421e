"""Triton kernels of the curvature, interpreted on the CPU."""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from hcnr_kernels.ops.gram.triton import gram_, lower_square, symmetrize_, triangle
from hcnr_kernels.testing.accuracy import TOLERANCES, relative_error
from hcnr_kernels.testing.tensors import randn
from hcnr_kernels.triton import launch, tiles
from hcnr_kernels.triton.tiles import Tile
from layouts import LAYOUTS, bits, columns_cut

pytestmark = pytest.mark.usefixtures("poisoned")

interpreted = pytest.mark.skipif(
    not launch.interpreting(), reason="needs TRITON_INTERPRET=1: there is no GPU to run kernels on"
)

FLOATS = launch.FLOATS
SMALL = Tile(m=16, n=32, k=16, num_warps=4, num_stages=2)


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
        (63, 173, torch.bfloat16),
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
