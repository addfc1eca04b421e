import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcnr_kernels.chunks import chunk_length, chunks
from hcnr_kernels.ops.fisher.forms import gram_is_cheaper


def test_the_flop_rule_by_hand() -> None:
    # 512 -> 1376: in out / (in + out) = 373.15; three sharing the Gram: 455.5.
    assert gram_is_cheaper(373, 512, 1376)
    assert not gram_is_cheaper(374, 512, 1376)
    assert gram_is_cheaper(455, 512, 1376, shared=3)
    assert not gram_is_cheaper(456, 512, 1376, shared=3)


def test_sharing_divides_the_side_that_is_shared() -> None:
    # in = 100, out = 10, shared = 10: output axis 1000 / 20 = 50, input axis 1000 / 101 = 9.9.
    assert gram_is_cheaper(49, 100, 10, axis="output", shared=10)
    assert not gram_is_cheaper(50, 100, 10, axis="output", shared=10)
    assert gram_is_cheaper(9, 100, 10, axis="input", shared=10)
    assert not gram_is_cheaper(10, 100, 10, axis="input", shared=10)


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_axes_are_mirror_images(tokens: int, wide: int, narrow: int) -> None:
    output = gram_is_cheaper(tokens, wide, narrow, axis="output", shared=3)
    assert output == gram_is_cheaper(tokens, narrow, wide, axis="input", shared=3)


@given(st.integers(0, 300), st.integers(1, 50))
def test_chunks_cover_once_and_in_order(length: int, size: int) -> None:
    pieces = list(chunks(length, size))
    assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(length))
    assert all(piece.stop - piece.start <= size for piece in pieces)


@pytest.mark.parametrize(("row", "budget", "rows"), [(10, 100, 10), (101, 100, 1), (0, 100, 100)])
def test_chunk_length(row: int, budget: int, rows: int) -> None:
    assert chunk_length(row, budget=budget) == rows
