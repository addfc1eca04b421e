"""The tiles that Triton kernels of the curvature, the norms and the merge are started with."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")


from hcnr_kernels.chunks import TEMPORARY_BYTES
from hcnr_kernels.ops.gram.triton import gram_, symmetrize_
from hcnr_kernels.ops.merge.triton import merge
from hcnr_kernels.ops.perturbation.triton import perturbation
from hcnr_kernels.triton import launch, tiles
from hcnr_kernels.triton.tiles import Tile

pytestmark = pytest.mark.usefixtures("poisoned")

compiled = pytest.mark.skipif(
    launch.interpreting(), reason="TRITON_INTERPRET=1 replaces the kernels by Python functions"
)

FLOATS = launch.FLOATS
SMALL = Tile(m=16, n=32, k=16, num_warps=4, num_stages=2)


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
