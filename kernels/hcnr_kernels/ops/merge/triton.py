"""Triton kernel of the merge: method.md (14), every weight read and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import launch, whole_vectors
from hcnr_kernels.triton.precision import rounded


@triton.jit
def merge_kernel(
    p_base,  # [rows, columns]
    p_tuned,  # [rows, columns]
    p_mask,  # [rows] bool if BY_ROW, else [columns]
    p_deviation,  # [rows, columns] or None
    p_out,  # [rows, columns], every element is written
    rows,
    columns,
    stride_base_m,
    stride_base_n,
    stride_tuned_m,
    stride_tuned_n,
    stride_mask,
    stride_deviation_m,
    stride_deviation_n,
    stride_out_m,
    stride_out_n,
    BY_ROW: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Final weights of method.md (14) over one tile: `W0 + E` in fp32 where restored, else W1.

    Rows are loaded only from where they come from. Columns are loaded from both: a vector of
    16 bytes covers several neurons, and a sector of 32 more. Without E nothing is added, because
    `-0.0 + 0.0` is `+0.0`.
    """
    i = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(columns, BN)
    o_m, o_n = i // across * BM + tl.arange(0, BM), i % across * BN + tl.arange(0, BN)
    m_m, m_n = o_m < rows, o_n < columns
    m_tile = m_m[:, None] & m_n[None, :]
    if BY_ROW:
        m_base = tl.load(p_mask + o_m * stride_mask, mask=m_m, other=0).to(tl.int1)
        m_tuned = (m_m & ~m_base)[:, None] & m_n[None, :]
        m_restored = (m_m & m_base)[:, None]
        m_base = m_restored & m_n[None, :]
    else:
        m_restored = tl.load(p_mask + o_n * stride_mask, mask=m_n, other=0).to(tl.int1)[None, :]
        m_base, m_tuned = m_tile, m_tile
    p_base += o_m[:, None] * stride_base_m + o_n[None, :] * stride_base_n
    p_tuned += o_m[:, None] * stride_tuned_m + o_n[None, :] * stride_tuned_n
    p_out += o_m[:, None] * stride_out_m + o_n[None, :] * stride_out_n
    # All loads before any arithmetic: they are in flight together.
    b_base = tl.load(p_base, mask=m_base, other=0.0)
    b_tuned = tl.load(p_tuned, mask=m_tuned, other=0.0)
    if p_deviation is not None:
        p_deviation += o_m[:, None] * stride_deviation_m + o_n[None, :] * stride_deviation_n
        b_deviation = tl.load(p_deviation, mask=m_base, other=0.0)
        b_base = b_base.to(tl.float32) + b_deviation.to(tl.float32)
    b_base = rounded(b_base, p_out.dtype.element_ty)
    b_tuned = rounded(b_tuned, p_out.dtype.element_ty)
    tl.store(p_out, tl.where(m_restored, b_base, b_tuned), mask=m_tile)


def merge(
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    deviation: Tensor | None,
    axis: str,
    dtype: torch.dtype,
) -> Tensor:
    """Final weights of method.md (14): `W0 + E` in fp32 on restored neurons, tuned elsewhere."""
    merged = torch.empty_like(tuned, dtype=dtype)
    by_row, out = axis == "output", merged
    if out.stride(0) < out.stride(1):
        base, tuned, out, by_row = base.T, tuned.T, out.T, not by_row
        deviation = None if deviation is None else deviation.T
    rows, columns = out.shape
    operands = [one for one in (base, tuned, deviation, out) if one is not None]
    size = max(one.element_size() for one in operands)
    tile = tiles.stream_tile(rows, columns, size, whole_vectors(*operands))
    launch(
        merge_kernel,
        -(-rows // tile.m) * -(-columns // tile.n),
        tile,
        p_base=base,
        p_tuned=tuned,
        p_mask=mask,
        p_deviation=deviation,
        p_out=out,
        rows=rows,
        columns=columns,
        stride_base_m=base.stride(0),
        stride_base_n=base.stride(1),
        stride_tuned_m=tuned.stride(0),
        stride_tuned_n=tuned.stride(1),
        stride_mask=mask.stride(0),
        stride_deviation_m=0 if deviation is None else deviation.stride(0),
        stride_deviation_n=0 if deviation is None else deviation.stride(1),
        stride_out_m=out.stride(0),
        stride_out_n=out.stride(1),
        BY_ROW=by_row,
        BM=tile.m,
        BN=tile.n,
    )
    return merged
