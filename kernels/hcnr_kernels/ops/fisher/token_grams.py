"""Triton kernel of the token Grams `K_b = X_b X_b^T` of method.md (2), on packed samples.

Beside bf16, K is the sum of two planes of bf16, which tensor cores take as they are: of its lower
triangle, doubled below the diagonal. K is symmetric, so that gives the same scores. Beside other
dtypes it is kept in fp32.
"""

import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.ops.fisher.vectorised import empty_planes, empty_token_gram
from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.items import Spans, items_of, locate
from hcnr_kernels.triton.launch import capability, launch
from hcnr_kernels.triton.precision import product, rounded


@triton.jit
def pair_of(i_pair):
    """Row t and column u <= t of the tile that is number `i_pair` of a triangle, row by row."""
    i_t = ((tl.sqrt((8 * i_pair + 1).to(tl.float32)) - 1) * 0.5).to(tl.int64)
    # A root that was rounded is off by one at most.
    i_t += ((i_t + 1) * (i_t + 2) // 2 <= i_pair).to(tl.int64)
    i_t -= (i_t * (i_t + 1) // 2 > i_pair).to(tl.int64)
    return i_t, i_pair - i_t * (i_t + 1) // 2


@triton.jit
def halves_of(b_k, o_b, diagonal):
    """A tile of K's triangle, doubled but for the diagonal of K, as the sum of two bf16 tiles."""
    if diagonal:
        b_left = tl.where(o_b[None, :] < o_b[:, None], b_k, 0.0)
        b_k = tl.where(o_b[None, :] <= o_b[:, None], b_k, 0.0) + b_left
    else:
        b_k *= 2
    b_high = rounded(b_k, tl.bfloat16)
    return b_high, rounded(b_k - b_high.to(tl.float32), tl.bfloat16)


@triton.jit(do_not_specialize=["n", "samples", "per", "longest", "most", "stride_k"])
def token_gram_kernel(
    p_x,  # [n, width]
    p_offsets,  # [samples + 1] int32
    p_used,  # [samples] int32, or None: all rows between the offsets
    p_gram,  # [n, longest] fp32, zero outside the samples' blocks; bf16 if there is a second plane
    p_low,  # [n, longest] bf16, or None
    n,
    samples,
    per,
    longest,
    most,
    stride_k,
    width,
    stride_t,
    stride_d,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
    BZ: tl.constexpr,
):
    """`K_b = X_b X_b^T` of method.md (2), accumulated in fp32; one program forms K[t, u], u <= t.

    In fp32 the mirrored tile is stored too, so that K may be read with any tile size. Of two planes
    the lower triangle is stored, twice K below the diagonal, and zeros right of it, up to the end
    of its square of `BT` or `BZ` tokens. Samples of more than `most` tokens are left out: the
    direct form takes them.
    """
    i = tl.program_id(0).to(tl.int64)
    columns = tl.cdiv(longest, BT)
    pairs = per * (per + 1) // 2
    if per > 0:
        i_pair = i % pairs
        i_row, i_u = pair_of(i_pair)
        i_item = i // pairs * per + i_row
    else:
        i_pair = i
        i_item, i_u = i // columns, i % columns
    start, tokens, i_t, valid = locate(
        p_offsets, p_used, i_item.to(tl.int32), n, samples, per, True, BT, BS
    )
    # 64-bit where a tile starts, 32-bit inside it: half the registers.
    o_b = tl.arange(0, BT)
    o_k = o_b[:, None] * stride_k + o_b[None, :]
    if (not valid) | ((tokens > longest) & (tokens <= most)):
        # Every row of the sample, or of all, whoever reaches it.
        if not valid:
            start, tokens = i * 0, n
            i_pair, pairs = i, tl.num_programs(0)
        elif per == 0:
            i_pair, pairs = i_t.to(tl.int64) * columns + i_u, tl.cdiv(tokens, BT) * columns
        for i_bad in range(i_pair, tl.cdiv(tokens, BT) * columns, pairs):
            i_r, i_c = i_bad // columns * BT, i_bad % columns * BT
            m_bad = (i_r + o_b < tokens)[:, None] & (i_c + o_b < longest)[None, :]
            b_nan = rounded(tl.full([BT, BT], float("nan"), tl.float32), p_gram.dtype.element_ty)
            tl.store(p_gram + (start + i_r) * stride_k + i_c + o_k, b_nan, mask=m_bad)
    elif (tokens <= most) & (i_u <= i_t) & (i_t * BT < tokens):
        m_t, m_u = i_t * BT + o_b < tokens, i_u * BT + o_b < tokens
        o_d = tl.arange(0, BD)
        o_tile = o_b[:, None] * stride_t + o_d[None, :] * stride_d
        p_t = p_x + (start + i_t * BT) * stride_t
        p_u = p_x + (start + i_u * BT) * stride_t
        b_k = tl.zeros([BT, BT], tl.float32)
        for i_d in range(0, width, BD):
            m_d = (i_d + o_d < width)[None, :]
            b_t = tl.load(p_t + o_tile, mask=m_t[:, None] & m_d, other=0.0)
            b_u = tl.load(p_u + o_tile, mask=m_u[:, None] & m_d, other=0.0)
            b_k = product(b_t, tl.trans(b_u), b_k)
            p_t += BD * stride_d
            p_u += BD * stride_d
        i_k = (start + i_t * BT) * stride_k + i_u * BT
        if p_low is None:
            tl.store(p_gram + i_k + o_k, b_k, mask=m_t[:, None] & m_u[None, :])
            if i_u < i_t:
                p_k = p_gram + (start + i_u * BT) * stride_k + i_t * BT
                tl.store(p_k + o_k, tl.trans(b_k), mask=m_u[:, None] & m_t[None, :])
        else:
            b_high, b_low = halves_of(b_k, o_b, i_t == i_u)
            m_k = m_t[:, None] & (i_u * BT + o_b < longest)[None, :]
            tl.store(p_gram + i_k + o_k, b_high, mask=m_k)
            tl.store(p_low + i_k + o_k, b_low, mask=m_k)
            if (BZ > BT) & (i_u == i_t):
                b_zero = rounded(tl.zeros([BT, BT], tl.float32), tl.bfloat16)
                for i_z in range(BT, BZ - i_t * BT % BZ, BT):
                    m_z = m_t[:, None] & (i_t * BT + i_z + o_b < longest)[None, :]
                    tl.store(p_gram + i_k + i_z + o_k, b_zero, mask=m_z)
                    tl.store(p_low + i_k + i_z + o_k, b_zero, mask=m_z)


def token_gram(x: Tensor, spans: Spans, longest: int, *, most: int) -> Tensor:
    """K of every sample of at most `most` tokens, `[n, longest]` fp32, zero outside.

    Rows of such samples with more than `longest` tokens are NaN.
    """
    gram = empty_token_gram(x, longest).zero_()
    _form(gram, None, x, spans, most, beside=0)
    return gram


def split_token_gram(
    x: Tensor, spans: Spans, longest: int, *, most: int, clear: bool = True
) -> Tensor:
    """K's lower triangle, doubled below the diagonal, as the sum of two planes `[2, n, longest]`.

    The planes are bf16. Without `clear` they are zero where `add_quadratic_` of the same samples
    reads them, unspecified elsewhere.
    """
    planes = empty_planes(x, longest)
    beside = 0
    if clear:
        planes.zero_()
    else:
        mean_tokens = x.shape[0] / max(spans.samples, 1)
        beside = tiles.quadratic_tile("planes", mean_tokens, capability(x.device)).m
    _form(planes[0], planes[1], x, spans, most, beside=beside)
    return planes


def _form(
    gram: Tensor, low: Tensor | None, x: Tensor, spans: Spans, most: int, *, beside: int
) -> None:
    """Start `token_gram_kernel`; `beside` is how many tokens a reader takes at once."""
    (tokens, width), samples, longest = x.shape, spans.samples, gram.shape[1]
    tile = tiles.token_gram_tile(x.element_size(), tokens / max(samples, 1), capability(x.device))
    count, per = items_of(tokens, samples, tile.m, longest)
    launch(
        token_gram_kernel,
        samples * per * (per + 1) // 2 if per else count * tiles.divide_up(longest, tile.m),
        tile,
        p_x=x,
        p_offsets=spans.cu_seqlens,
        p_used=spans.seqused,
        p_gram=gram,
        p_low=low,
        n=tokens,
        samples=samples,
        per=per,
        longest=longest,
        most=most,
        stride_k=gram.stride(0),
        width=width,
        stride_t=x.stride(0),
        stride_d=x.stride(1),
        BT=tile.m,
        BD=tile.k,
        BS=tiles.SAMPLES_AT_ONCE,
        BZ=max(beside, tile.m),
    )
