"""Triton kernel of the direct form of the Fisher scores, method.md (1), on packed samples.

Tiles of every sample's weight gradient `G_b = g_b^T x_b` are formed on the tensor cores, squared
and summed in registers: no gradient reaches memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.items import Spans, add_rows_, ends_hold
from hcnr_kernels.triton.launch import capability, launch
from hcnr_kernels.triton.precision import product


@triton.jit(do_not_specialize=["n", "samples", "least", "splits"])
def direct_kernel(
    p_x,  # [n, width_in]
    p_g,  # [n, width_out]
    p_offsets,  # [samples + 1] int32
    p_used,  # [samples] int32, or None: all rows between the offsets
    p_output,  # [splits * tiles along in, width_out] fp32, or None
    p_input,  # [splits * tiles along out, width_in] fp32, or None
    p_weight,  # [width_out, width_in] fp32, or None
    n,
    samples,
    least,
    splits,
    width_in,
    width_out,
    stride_xt,
    stride_xd,
    stride_gt,
    stride_gd,
    stride_wo,
    stride_wi,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Method.md (1): one tile `[BM, BN]` of `G_b = g_b^T x_b` after the other over the samples.

    Each is squared in registers and summed along its rows (`p_output`), its columns (`p_input`), or
    over the samples alone (`p_weight`, read and written once). Split s takes the samples s,
    s + splits, ...; samples of fewer than `least` tokens contribute nothing: the Gram form takes
    them.
    """
    i = tl.program_id(0).to(tl.int64)
    tiles_m, tiles_n = tl.cdiv(width_out, BM), tl.cdiv(width_in, BN)
    i_split, i = i // (tiles_m * tiles_n), i % (tiles_m * tiles_n)
    # Neighbouring programs share rows of tiles, GROUP high, so that operands stay in L2.
    i_top = i // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - i_top, GROUP)
    i_m, i_n = i_top + i % (GROUP * tiles_n) % height, i % (GROUP * tiles_n) // height
    o_m, o_n, o_k = i_m * BM + tl.arange(0, BM), i_n * BN + tl.arange(0, BN), tl.arange(0, BK)
    m_m, m_n = o_m < width_out, o_n < width_in
    # 64-bit where a tile starts, 32-bit inside it: half the registers.
    p_gs, p_xs = p_g + i_m * BM * stride_gd, p_x + i_n * BN * stride_xd
    o_g = o_k[:, None] * stride_gt + tl.arange(0, BM)[None, :] * stride_gd
    o_x = o_k[:, None] * stride_xt + tl.arange(0, BN)[None, :] * stride_xd
    b_rows, b_columns = tl.zeros([BM], tl.float32), tl.zeros([BN], tl.float32)
    b_squares = tl.zeros([BM, BN], tl.float32)
    first, last = tl.load(p_offsets), tl.load(p_offsets + samples)
    valid = ends_hold(first, last, n, p_used)
    for i_sample in range(i_split.to(tl.int32), samples, splits):
        start, stop = tl.load(p_offsets + i_sample), tl.load(p_offsets + i_sample + 1)
        valid = valid & (start >= 0) & (start <= stop) & (stop <= n)
        if p_used is not None:
            used = tl.load(p_used + i_sample)
            valid = valid & (used >= 0) & (used <= stop - start)
            stop = start + used
        if valid & (stop - start >= least):
            b_g = tl.zeros([BM, BN], tl.float32)
            for i_k in range(start, stop, BK):
                m_t = (i_k + o_k < stop)[:, None]
                i_row = tl.cast(i_k, tl.int64)
                b_left = tl.load(p_gs + i_row * stride_gt + o_g, mask=m_t & m_m[None, :], other=0.0)
                b_right = tl.load(
                    p_xs + i_row * stride_xt + o_x, mask=m_t & m_n[None, :], other=0.0
                )
                b_g = product(tl.trans(b_left), b_right, b_g)
            if p_weight is not None:
                b_squares += b_g * b_g
            if p_output is not None:
                b_rows += tl.sum(b_g * b_g, 1)
            if p_input is not None:
                b_columns += tl.sum(b_g * b_g, 0)
    if p_output is not None:
        b_rows = tl.where(valid, b_rows, float("nan"))
        tl.store(p_output + (i_split * tiles_n + i_n) * width_out + o_m, b_rows, mask=m_m)
    if p_input is not None:
        b_columns = tl.where(valid, b_columns, float("nan"))
        tl.store(p_input + (i_split * tiles_m + i_m) * width_in + o_n, b_columns, mask=m_n)
    if p_weight is not None:
        p_tile = p_weight + o_m[:, None] * stride_wo + o_n[None, :] * stride_wi
        m_tile = m_m[:, None] & m_n[None, :]
        b_weight = tl.load(p_tile, mask=m_tile, other=0.0)
        b_weight = tl.where(valid, b_weight + b_squares, float("nan"))
        tl.store(p_tile, b_weight, mask=m_tile)


def add_direct_(
    output_scores: Tensor | None,
    input_scores: Tensor | None,
    weight_scores: Tensor | None,
    x: Tensor,
    g: Tensor,
    spans: Spans,
    *,
    least: int = 0,
) -> None:
    """Add what the samples of at least `least` tokens contribute to each of the scores given.

    Args:
        output_scores: `[out]` fp32, or None.
        input_scores: `[in]` fp32, or None.
        weight_scores: `[out, in]` fp32, or None.
        x: `[n, in]`.
        g: `[n, out]`.
        spans: The rows of every sample.
        least: Tokens.
    """
    tokens, samples = x.shape[0], spans.samples
    width_in, width_out = x.shape[1], g.shape[1]
    itemsize = max(x.element_size(), g.element_size())
    wanted = {"rows": output_scores, "columns": input_scores, "weights": weight_scores}
    sums = frozenset(name for name, scores in wanted.items() if scores is not None)
    tile = tiles.direct_tile(itemsize, capability(x.device), sums)
    tiles_m, tiles_n = tiles.divide_up(width_out, tile.m), tiles.divide_up(width_in, tile.n)
    splits = 1
    if weight_scores is None:
        splits = tiles.sample_splits(tiles_m * tiles_n, samples)
    rows = columns = None
    if output_scores is not None:
        rows = torch.empty((splits * tiles_n, width_out), dtype=torch.float32, device=x.device)
    if input_scores is not None:
        columns = torch.empty((splits * tiles_m, width_in), dtype=torch.float32, device=x.device)
    launch(
        direct_kernel,
        splits * tiles_m * tiles_n,
        tile,
        p_x=x,
        p_g=g,
        p_offsets=spans.cu_seqlens,
        p_used=spans.seqused,
        p_output=rows,
        p_input=columns,
        p_weight=weight_scores,
        n=tokens,
        samples=samples,
        least=least,
        splits=splits,
        width_in=width_in,
        width_out=width_out,
        stride_xt=x.stride(0),
        stride_xd=x.stride(1),
        stride_gt=g.stride(0),
        stride_gd=g.stride(1),
        stride_wo=0 if weight_scores is None else weight_scores.stride(0),
        stride_wi=0 if weight_scores is None else weight_scores.stride(1),
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        GROUP=tiles.GROUP,
    )
    if output_scores is not None and rows is not None:
        add_rows_(output_scores, rows)
    if input_scores is not None and columns is not None:
        add_rows_(input_scores, columns)
