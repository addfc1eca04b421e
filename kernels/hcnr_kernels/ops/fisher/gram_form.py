"""Triton kernels of the Gram form of the Fisher scores, method.md (2), on packed samples.

    scores[k] += sum_b own_b[:, k]^T K_b own_b[:, k],   K_b = other_b other_b^T

One kernel forms the token Grams K, once per distinct tensor `other`; another forms tiles of
`K own`, multiplies them by `own` and sums over the tokens in registers. K is kept in fp32. Beside
bf16 it is multiplied as the sum of two bf16 numbers, else in fp32 (`precision.product`).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.ops.fisher.vectorised import empty_token_gram
from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.items import Spans, add_rows_, locate
from hcnr_kernels.triton.launch import capability, launch
from hcnr_kernels.triton.precision import product, rounded


@triton.jit(do_not_specialize=["n", "samples", "longest", "most", "stride_k"])
def token_gram_kernel(
    p_x,  # [n, width]
    p_offsets,  # [samples + 1] int32
    p_used,  # [samples] int32, or None: all rows between the offsets
    p_gram,  # [n, longest] fp32, zero outside the samples' blocks
    n,
    samples,
    longest,
    most,
    stride_k,
    width,
    stride_t,
    stride_d,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
):
    """`K_b = X_b X_b^T` of method.md (2), accumulated in fp32; one program forms K[t, u], u <= t.

    The mirrored tile is stored too, so that K may be read with any tile size. Samples of more than
    `most` tokens are left out: the direct form takes them.
    """
    i = tl.program_id(0).to(tl.int64)
    columns = tl.cdiv(longest, BT)
    i_item, i_u = i // columns, i % columns
    start, tokens, i_t, valid = locate(p_offsets, p_used, i_item.to(tl.int32), n, samples, BT, BS)
    if not valid:
        # As if there were one sample, so that every row is reached.
        start, tokens, i_t = i_item * 0, n, i_item.to(tl.int32)
    if (not valid) | ((tokens > longest) & (tokens <= most)):
        o_t, o_u = i_t * BT + tl.arange(0, BT), i_u * BT + tl.arange(0, BT)
        m_bad = (o_t < tokens)[:, None] & (o_u < longest)[None, :]
        b_nan = tl.full([BT, BT], float("nan"), tl.float32)
        tl.store(p_gram + (start + o_t)[:, None] * stride_k + o_u[None, :], b_nan, mask=m_bad)
    elif (tokens <= most) & (i_u <= i_t) & (i_t * BT < tokens):
        o_t, o_u = i_t * BT + tl.arange(0, BT), i_u * BT + tl.arange(0, BT)
        m_t, m_u = o_t < tokens, o_u < tokens
        o_d = tl.arange(0, BD)
        # 64-bit where a tile starts, 32-bit inside it: half the registers.
        o_tile = tl.arange(0, BT)[:, None] * stride_t + o_d[None, :] * stride_d
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
        p_k = p_gram + (start + o_t)[:, None] * stride_k + o_u[None, :]
        tl.store(p_k, b_k, mask=m_t[:, None] & m_u[None, :])
        if i_u < i_t:
            p_k = p_gram + (start + o_u)[:, None] * stride_k + o_t[None, :]
            tl.store(p_k, tl.trans(b_k), mask=m_u[:, None] & m_t[None, :])


@triton.jit(do_not_specialize=["n", "samples", "longest", "most", "stride_k"])
def quadratic_kernel(
    p_gram,  # [n, longest] fp32
    p_own,  # [n, width]
    p_offsets,  # [samples + 1] int32
    p_used,  # [samples] int32, or None: all rows between the offsets
    p_partial,  # [items, width] fp32
    n,
    samples,
    longest,
    most,
    stride_k,
    width,
    stride_t,
    stride_d,
    ALIGNED: tl.constexpr,
    BT: tl.constexpr,
    BU: tl.constexpr,
    BN: tl.constexpr,
    BS: tl.constexpr,
):
    """Method.md (2) of one item: `sum_t own[t, k] sum_{u <= t} c_tu K[t, u] own[u, k]`.

    `c` is 2 left of the diagonal tile and 1 on it: K is symmetric. `K own` lives in registers.
    Samples of more than `most` tokens contribute nothing here: the direct form takes them.
    """
    i = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(width, BN)
    i_item, i_n = i // blocks, i % blocks
    start, tokens, i_t, valid = locate(p_offsets, p_used, i_item.to(tl.int32), n, samples, BT, BS)
    taken = tokens <= most
    valid = valid & ((tokens <= longest) | (not taken))
    if ALIGNED:
        # Tells the compiler that rows of K start at 16 bytes and end at a whole vector.
        stride_k, longest = stride_k // 4 * 4, longest // 4 * 4
    o_n = i_n * BN + tl.arange(0, BN)
    m_n = o_n < width
    b_total = tl.zeros([BN], tl.float32)
    if valid & taken & (i_t * BT < tokens):
        o_t = i_t * BT + tl.arange(0, BT)
        m_t = o_t < tokens
        # 64-bit where a tile starts, 32-bit inside it: half the registers.
        p_row = p_gram + (start + i_t * BT) * stride_k
        o_k = tl.arange(0, BT)[:, None] * stride_k + tl.arange(0, BU)[None, :]
        p_column = p_own + start * stride_t + i_n * BN * stride_d
        o_column = tl.arange(0, BN)[None, :] * stride_d
        o_own = tl.arange(0, BU)[:, None] * stride_t + o_column
        b_sum = tl.zeros([BT, BN], tl.float32)
        for i_u in range(0, tl.minimum(tokens, (i_t + 1) * BT), BU):
            o_u = i_u + tl.arange(0, BU)
            m_k = m_t[:, None] & (o_u < longest)[None, :]
            m_own = (o_u < tokens)[:, None] & m_n[None, :]
            b_k = tl.load(p_row + i_u + o_k, mask=m_k, other=0.0)
            b_own = tl.load(
                p_column + tl.cast(i_u, tl.int64) * stride_t + o_own, mask=m_own, other=0.0
            )
            b_k = b_k * tl.where(i_u < i_t * BT, 2.0, 1.0)
            if b_own.dtype == tl.bfloat16:
                b_high = rounded(b_k, tl.bfloat16)
                b_low = rounded(b_k - b_high.to(tl.float32), tl.bfloat16)
                b_sum = product(b_high, b_own, b_sum)
                b_sum = product(b_low, b_own, b_sum)
            else:
                b_sum = product(b_k, b_own.to(tl.float32), b_sum)
        p_column += tl.cast(i_t * BT, tl.int64) * stride_t
        o_own = tl.arange(0, BT)[:, None] * stride_t + o_column
        b_own = tl.load(p_column + o_own, mask=m_t[:, None] & m_n[None, :], other=0.0)
        b_total = tl.sum(b_sum * b_own.to(tl.float32), 0)
    b_total = tl.where(valid, b_total, float("nan"))
    tl.store(p_partial + i_item * width + o_n, b_total, mask=m_n)


def token_gram(x: Tensor, spans: Spans, longest: int, *, most: int) -> Tensor:
    """K of every sample of at most `most` tokens, `[n, longest]` fp32, zero outside.

    Rows of such samples with more than `longest` tokens are NaN.
    """
    tokens, width = x.shape
    samples = spans.samples
    gram = empty_token_gram(x, longest).zero_()
    tile = tiles.token_gram_tile(x.element_size(), tokens / max(samples, 1), capability(x.device))
    launch(
        token_gram_kernel,
        tiles.items(tokens, samples, tile.m) * tiles.divide_up(longest, tile.m),
        tile,
        p_x=x,
        p_offsets=spans.cu_seqlens,
        p_used=spans.seqused,
        p_gram=gram,
        n=tokens,
        samples=samples,
        longest=longest,
        most=most,
        stride_k=gram.stride(0),
        width=width,
        stride_t=x.stride(0),
        stride_d=x.stride(1),
        BT=tile.m,
        BD=tile.k,
        BS=tiles.SAMPLES_AT_ONCE,
    )
    return gram


def add_quadratic_(scores: Tensor, gram: Tensor, own: Tensor, spans: Spans, *, most: int) -> None:
    """Add method.md (2) of every sample of at most `most` tokens.

    Args:
        scores: `[d']` fp32.
        gram: `[n, L]` fp32, K as `token_gram` forms it.
        own: `[n, d']`, the tensor on the neuron axis.
        spans: The rows of every sample.
        most: Tokens.
    """
    tokens, width = own.shape
    samples = spans.samples
    if gram.stride(1) != 1:
        gram = gram.contiguous()
    split = own.dtype == torch.bfloat16
    tile = tiles.quadratic_tile(split, tokens / max(samples, 1), capability(own.device))
    count = tiles.items(tokens, samples, tile.m)
    partial = torch.empty((count, width), dtype=torch.float32, device=own.device)
    launch(
        quadratic_kernel,
        count * tiles.divide_up(width, tile.n),
        tile,
        p_gram=gram,
        p_own=own,
        p_offsets=spans.cu_seqlens,
        p_used=spans.seqused,
        p_partial=partial,
        n=tokens,
        samples=samples,
        longest=gram.shape[1],
        most=most,
        stride_k=gram.stride(0),
        width=width,
        stride_t=own.stride(0),
        stride_d=own.stride(1),
        ALIGNED=gram.stride(0) % 4 == 0 and gram.shape[1] % 4 == 0,
        BT=tile.m,
        BU=tile.k,
        BN=tile.n,
        BS=tiles.SAMPLES_AT_ONCE,
    )
    add_rows_(scores, partial)
