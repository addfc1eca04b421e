"""Triton kernel of the Gram form of the Fisher scores, method.md (2), on packed samples.

    scores[k] += sum_b own_b[:, k]^T K_b own_b[:, k],   K_b = other_b other_b^T

`token_grams` forms K, once per distinct tensor `other`. The kernel here forms tiles of `K own`,
multiplies them by `own` and sums over the tokens in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.items import Spans, add_rows_, items_of, locate
from hcnr_kernels.triton.launch import capability, launch
from hcnr_kernels.triton.precision import product, rounded


@triton.jit(do_not_specialize=["n", "samples", "per", "longest", "most", "stride_k"])
def quadratic_kernel(
    p_gram,  # [n, longest] fp32, or the first of two planes of bf16
    p_low,  # [n, longest] bf16, or None
    p_own,  # [n, width]
    p_offsets,  # [samples + 1] int32
    p_used,  # [samples] int32, or None: all rows between the offsets
    p_partial,  # [items, width] fp32
    n,
    samples,
    per,
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

    `c` is 2 left of the diagonal tile and 1 on it: K is symmetric. In two planes it is K's already.
    `K own` lives in registers. Samples of more than `most` tokens contribute nothing here: the
    direct form takes them.
    """
    i = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(width, BN)
    i_item, i_n = i // blocks, i % blocks
    start, tokens, i_t, valid = locate(
        p_offsets, p_used, i_item.to(tl.int32), n, samples, per, False, BT, BS
    )
    taken = tokens <= most
    valid = valid & ((tokens <= longest) | (not taken))
    if ALIGNED:
        # Tells the compiler that rows of K start at 16 bytes and end at a whole vector.
        stride_k, longest = stride_k // 8 * 8, longest // 8 * 8
    o_n = i_n * BN + tl.arange(0, BN)
    m_n = o_n < width
    b_total = tl.zeros([BN], tl.float32)
    if valid & taken & (i_t * BT < tokens):
        o_t = i_t * BT + tl.arange(0, BT)
        m_t = o_t < tokens
        # 64-bit where a tile starts, 32-bit inside it: half the registers.
        i_row = (start + i_t * BT) * stride_k
        o_k = tl.arange(0, BT)[:, None] * stride_k + tl.arange(0, BU)[None, :]
        p_column = p_own + start * stride_t + i_n * BN * stride_d
        o_column = tl.arange(0, BN)[None, :] * stride_d
        o_own = tl.arange(0, BU)[:, None] * stride_t + o_column
        b_sum = tl.zeros([BT, BN], tl.float32)
        for i_u in range(0, tl.minimum(tokens, (i_t + 1) * BT), BU):
            o_u = i_u + tl.arange(0, BU)
            m_k = m_t[:, None] & (o_u < longest)[None, :]
            m_own = (o_u < tokens)[:, None] & m_n[None, :]
            b_k = tl.load(p_gram + i_row + i_u + o_k, mask=m_k, other=0.0)
            b_own = tl.load(
                p_column + tl.cast(i_u, tl.int64) * stride_t + o_own, mask=m_own, other=0.0
            )
            if p_low is not None:
                b_low = tl.load(p_low + i_row + i_u + o_k, mask=m_k, other=0.0)
                b_sum = product(b_k, b_own, b_sum)
                b_sum = product(b_low, b_own, b_sum)
            else:
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


def add_quadratic_(scores: Tensor, gram: Tensor, own: Tensor, spans: Spans, *, most: int) -> None:
    """Add method.md (2) of every sample of at most `most` tokens.

    Args:
        scores: `[d']` fp32.
        gram: K as `token_gram` forms it, `[n, L]` fp32, or as `split_token_gram` does.
        own: `[n, d']`, the tensor on the neuron axis; bf16 beside planes.
        spans: The rows of every sample.
        most: Tokens.
    """
    tokens, width = own.shape
    samples = spans.samples
    if gram.stride(-1) != 1:
        gram = gram.contiguous()
    first, low = (gram, None) if gram.dim() == 2 else (gram[0], gram[1])
    kind = "planes" if low is not None else "whole"
    if low is None and own.dtype == torch.bfloat16:
        kind = "split"
    tile = tiles.quadratic_tile(kind, tokens / max(samples, 1), capability(own.device))
    count, per = items_of(tokens, samples, tile.m, first.shape[1])
    partial = torch.empty((count, width), dtype=torch.float32, device=own.device)
    launch(
        quadratic_kernel,
        count * tiles.divide_up(width, tile.n),
        tile,
        p_gram=first,
        p_low=low,
        p_own=own,
        p_offsets=spans.cu_seqlens,
        p_used=spans.seqused,
        p_partial=partial,
        n=tokens,
        samples=samples,
        per=per,
        longest=first.shape[1],
        most=most,
        stride_k=first.stride(0),
        width=width,
        stride_t=own.stride(0),
        stride_d=own.stride(1),
        ALIGNED=first.stride(0) % 8 == 0 and first.shape[1] % 8 == 0,
        BT=tile.m,
        BU=tile.k,
        BN=tile.n,
        BS=tiles.SAMPLES_AT_ONCE,
    )
    add_rows_(scores, partial)
