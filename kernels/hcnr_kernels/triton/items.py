"""Work items of packed samples, and the sums that are formed from them: shared Triton code.

A work item is a tile of `BT` tokens of one sample. Every sample has as many as the longest, which
the host has been told; or, where samples differ so much that this is more, sample b owns the items
from `cu_seqlens[b] // BT + b` on, which are at least as many as its tiles and overlap no other
sample's, and a program finds its sample by counting offsets. The host never reads a length. Partial
sums go to memory once per item and are added in a fixed order: the same bits on every run.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import launch


class Spans(NamedTuple):
    """Which rows belong to each sample."""

    cu_seqlens: Tensor
    seqused: Tensor | None

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self.cu_seqlens.shape[0] - 1


def spans_of(cu_seqlens: Tensor, seqused: Tensor | None) -> Spans:
    """The spans with offsets and lengths that lie one after the other, as the kernels read them."""
    return Spans(cu_seqlens.contiguous(), None if seqused is None else seqused.contiguous())


class Items(NamedTuple):
    """Work items of packed samples.

    Attributes:
        total: Of all samples.
        per: Of each sample; 0 where sample b's start at `cu_seqlens[b] // tile + b`.
    """

    total: int
    per: int


def items_of(tokens: int, samples: int, tile: int, longest: int) -> Items:
    """Work items that cover `samples` samples of `tokens` rows in all, none above `longest`.

    As many for each as the longest takes, or, where samples differ so much that this is less, as
    many as any lengths need. A sample that is longer than promised has one, to say so.
    """
    per = max(1, tiles.divide_up(longest, tile))
    spread = tokens // tile + samples if samples else 0
    return Items(samples * per, per) if samples * per <= spread else Items(spread, 0)


@triton.jit
def locate(
    p_offsets,
    p_used,
    i_item,
    n,
    samples,
    per,
    EVERY: tl.constexpr,
    BT: tl.constexpr,
    BS: tl.constexpr,
):
    """First row and tokens of the item's sample, its tile, and whether the offsets hold.

    The item is a tile where `tile * BT < tokens`. Where the offsets do not hold, tokens is 0. All
    of them are looked at where `EVERY` says so or `per` is 0, else those of the item's sample.
    """
    o_s = tl.arange(0, BS)
    before, wrong = tl.zeros([], tl.int32), tl.zeros([], tl.int32)
    counted = samples
    if not EVERY:
        counted = tl.where(per > 0, 0, samples)
    for i_s in range(0, counted, BS):
        m_s = i_s + o_s < samples
        b_start = tl.load(p_offsets + i_s + o_s, mask=m_s, other=0)
        b_stop = tl.load(p_offsets + i_s + o_s + 1, mask=m_s, other=0)
        before += tl.sum((m_s & (b_start // BT + i_s + o_s <= i_item)).to(tl.int32))
        wrong += tl.sum((m_s & (b_stop < b_start)).to(tl.int32))
        if p_used is not None:
            b_used = tl.load(p_used + i_s + o_s, mask=m_s, other=0)
            wrong += tl.sum((m_s & ((b_used < 0) | (b_used > b_stop - b_start))).to(tl.int32))
    first, last = tl.load(p_offsets), tl.load(p_offsets + samples)
    i_sample = tl.where(per > 0, i_item // tl.maximum(per, 1), tl.maximum(before - 1, 0))
    start, stop = tl.load(p_offsets + i_sample), tl.load(p_offsets + i_sample + 1)
    valid = (wrong == 0) & ends_hold(first, last, n, p_used)
    valid = valid & (start >= 0) & (start <= stop) & (stop <= n)
    if p_used is None:
        tokens = stop - start
    else:
        tokens = tl.load(p_used + i_sample)
        valid = valid & (tokens >= 0) & (tokens <= stop - start)
    i_t = tl.where(per > 0, i_item - i_sample * per, i_item - (start // BT + i_sample))
    # Items before the first sample's, which padding in front of it leaves, are no one's.
    tokens = tl.where(valid & (i_t >= 0), tokens, 0)
    return start.to(tl.int64), tokens, tl.maximum(i_t, 0), valid


@triton.jit
def ends_hold(first, last, n, p_used):
    """Packed samples fill all n rows; samples that use some of their rows may leave gaps."""
    if p_used is None:
        return (first == 0) & (last == n)
    return (first >= 0) & (last <= n)


@triton.jit(do_not_specialize=["rows"])
def add_rows_kernel(
    p_partial,  # [rows, width] fp32
    p_scores,  # [width] fp32
    rows,
    width,
    stride_s,
    BR: tl.constexpr,
    BN: tl.constexpr,
):
    """`scores[k] += max(0, sum_r partial[r, k])`, in a fixed order; NaN stays NaN.

    The sum is one of squares, so a negative value is rounding.
    """
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    m_n = o_n < width
    b_sum = tl.zeros([BR, BN], tl.float32)
    for i_r in range(0, rows, BR):
        o_r = (i_r + tl.arange(0, BR))[:, None]
        p_r = p_partial + o_r.to(tl.int64) * width + o_n[None, :]
        b_sum += tl.load(p_r, mask=(o_r < rows) & m_n[None, :], other=0.0)
    b_total = tl.sum(b_sum, 0)
    b_total = tl.where(b_total < 0, 0.0, b_total)  # pyright: ignore[reportOperatorIssue]
    b_scores = tl.load(p_scores + o_n * stride_s, mask=m_n, other=0.0)
    tl.store(p_scores + o_n * stride_s, b_scores + b_total, mask=m_n)


def add_rows_(scores: Tensor, partial: Tensor) -> None:
    """Add the sum of the rows of `partial [rows, d']` to `scores [d']`, both fp32."""
    tile = tiles.ADD_ROWS
    launch(
        add_rows_kernel,
        tiles.divide_up(scores.shape[0], tile.n),
        tile,
        p_partial=partial,
        p_scores=scores,
        rows=partial.shape[0],
        width=scores.shape[0],
        stride_s=scores.stride(0),
        BR=tile.m,
        BN=tile.n,
    )
