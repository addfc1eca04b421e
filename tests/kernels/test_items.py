"""The work items of kernels over packed samples: each tile once, or nothing is read."""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.testing.tensors import RAGGED, offsets, packed, padded
from hcnr_kernels.triton.launch import interpreting

triton = pytest.importorskip("triton", reason="triton is not installed")

from hcnr_kernels.triton import items  # noqa: E402

interpreted = pytest.mark.skipif(not interpreting(), reason="needs TRITON_INTERPRET=1")

LENGTHS = [
    (1,),
    (0, 0, 5),
    RAGGED,
    (64, 65, 128, 129),
    (300, 2),
    (*(1,) * 256, 40),
    (),
    (17,) * 129,
]


if interpreting():
    import triton.language as tl

    @triton.jit
    def note_items(
        p_offsets, p_used, p_found, n, samples, per, EVERY: tl.constexpr, BT: tl.constexpr
    ):
        i = tl.program_id(0)
        start, tokens, tile, valid = items.locate(
            p_offsets, p_used, i, n, samples, per, EVERY, BT, 128
        )
        tl.store(p_found + 4 * i, start)
        tl.store(p_found + 4 * i + 1, tokens.to(tl.int64))
        tl.store(p_found + 4 * i + 2, tile.to(tl.int64))
        tl.store(p_found + 4 * i + 3, valid.to(tl.int64))


def found_items(
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    rows: int,
    tile: int,
    longest: int,
    every: bool = True,
) -> Tensor:
    samples = len(cu_seqlens) - 1
    count, per = items.items_of(rows, samples, tile, longest)
    found = torch.full((count, 4), -7)
    if len(found):
        note_items[(count,)](cu_seqlens, seqused, found, rows, samples, per, EVERY=every, BT=tile)
    return found


@interpreted
@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: str(lengths[:5]))
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("every", [False, True])
def test_every_tile_of_every_sample_is_one_item(
    lengths: tuple[int, ...], tile: int, spread: bool, every: bool
) -> None:
    if spread:
        x, _, cu_seqlens, used = padded(lengths, 1, 1, "cpu", torch.float32)
        rows = len(x)
    else:
        cu_seqlens, used, rows = offsets(lengths, "cpu"), None, sum(lengths)
    found = found_items(cu_seqlens, used, rows, tile, max(lengths, default=0), every)
    assert (found[:, 3] == 1).all()
    tiles_found = [
        (start, step) for start, tokens, step, _ in found.tolist() if 0 <= step * tile < tokens
    ]
    starts = cu_seqlens.tolist()
    wanted = [
        (start, step)
        for start, tokens in zip(starts, lengths, strict=False)
        for step in range(-(-tokens // tile))
    ]
    assert sorted(tiles_found) == sorted(wanted)


@interpreted
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 40), min_size=1, max_size=9), st.integers(0, 60))
@example([0, 40, 20], 20)
@example([0, 10, 5, 20], 20)
@example([0, -3, 20], 20)
def test_offsets_hold_or_nothing_is_read(values: list[int], rows: int) -> None:
    cu_seqlens = torch.tensor(values, dtype=torch.int32)
    holds = values[0] == 0 and values[-1] == rows and values == sorted(values)
    for longest in (1, 16, 40, 1000):
        for _, tokens, _, valid in found_items(cu_seqlens, None, rows, 16, longest).tolist():
            assert bool(valid) == holds
            assert holds or tokens == 0
        own = found_items(cu_seqlens, None, rows, 16, longest, every=False)
        # Each looks at its own sample: together they see whatever is wrong.
        assert bool((own[:, 3] == 1).all()) == holds or not len(own)
        for start, tokens, _, valid in own.tolist():
            assert tokens == 0 or (valid and start >= 0 and start + tokens <= rows)


@interpreted
@pytest.mark.parametrize("wrong", [-1, 11])
@pytest.mark.parametrize("longest", [16, 1000])
def test_lengths_hold_or_nothing_is_read(longest: int, wrong: int) -> None:
    """Also where the token Gram is of lengths that held."""
    x, g, cu_seqlens = packed((10, 20), 6, 5, "cpu", torch.float32)
    used = torch.tensor([7, 20], dtype=torch.int32)
    gram = hk.token_gram(x, cu_seqlens, max_seqlen=max(longest, 20), seqused=used)
    used[0] = wrong
    for every in (True, False):
        found = found_items(cu_seqlens, used, len(x), 16, longest, every)
        first = found[found[:, 3] == 0]
        assert len(first) and not first[:, 1].any()
    scores = hk.fisher_output_(torch.zeros(5), x, g, cu_seqlens, seqused=used, token_gram=gram)
    assert scores.isnan().all()
