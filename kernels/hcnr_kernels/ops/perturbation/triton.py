"""Triton kernels of the perturbation norms: method.md (4), both weights read once.

Deterministic: every program stores its sums, and a second stage adds them in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import launch, whole_vectors


@triton.jit(do_not_specialize=["masks"])
def perturbation_kernel(
    p_base,  # [rows, columns]
    p_tuned,  # [rows, columns]
    p_mask,  # [masks, rows] bool if BY_ROW, else [masks, columns]
    p_partial,  # [masks, 2, programs] fp32
    rows,
    columns,
    masks,
    stride_base_m,
    stride_base_n,
    stride_tuned_m,
    stride_tuned_n,
    stride_which,
    stride_mask,
    BY_ROW: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Summands of method.md (4) over one tile, in fp32: `||(W0 - W1) M||^2` and `||W0 M||^2`.

    Rows that are candidates of no mask are not loaded. Columns are: a vector of 16 bytes covers
    several neurons, and a sector of 32 more. A neuron is summed before a mask is applied, and what
    the mask leaves out is replaced, not multiplied, by zero (NaN * 0 is NaN).
    """
    i = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(columns, BN)
    o_m, o_n = i // across * BM + tl.arange(0, BM), i % across * BN + tl.arange(0, BN)
    m_m, m_n = o_m < rows, o_n < columns
    if BY_ROW:
        p_neuron, m_neuron = p_mask + o_m * stride_mask, m_m
        b_any = tl.zeros([BM], tl.int32)
        for i_mask in range(0, masks):
            b_any |= tl.load(p_neuron + i_mask * stride_which, mask=m_m, other=0).to(tl.int32)
        m_load = (b_any != 0)[:, None] & m_n[None, :]
    else:
        p_neuron, m_neuron = p_mask + o_n * stride_mask, m_n
        m_load = m_m[:, None] & m_n[None, :]
    p_base += o_m[:, None] * stride_base_m + o_n[None, :] * stride_base_n
    p_tuned += o_m[:, None] * stride_tuned_m + o_n[None, :] * stride_tuned_n
    # Both loads before any arithmetic: they are in flight together.
    b_base = tl.load(p_base, mask=m_load, other=0.0)
    b_tuned = tl.load(p_tuned, mask=m_load, other=0.0)
    b_base, b_tuned = b_base.to(tl.float32), b_tuned.to(tl.float32)
    b_change = b_base - b_tuned
    axis: tl.constexpr = 1 if BY_ROW else 0
    b_changes, b_bases = tl.sum(b_change * b_change, axis), tl.sum(b_base * b_base, axis)
    programs = tl.num_programs(0).to(tl.int64)
    p_partial += i
    for i_mask in range(0, masks):
        m = tl.load(p_neuron + i_mask * stride_which, mask=m_neuron, other=0).to(tl.int1)
        tl.store(p_partial, tl.sum(tl.where(m, b_changes, 0.0)))
        tl.store(p_partial + programs, tl.sum(tl.where(m, b_bases, 0.0)))
        p_partial += 2 * programs


@triton.jit(do_not_specialize=["count"])
def perturbation_add_kernel(
    p_partial,  # [masks, 2, count] fp32
    p_change,  # [masks] fp32
    p_base,  # [masks] fp32
    count,
    BN: tl.constexpr,
):
    """Second stage: both sums of method.md (4) of a mask, in float64, rounded once."""
    i = tl.program_id(0).to(tl.int64)
    p_partial += i * 2 * count
    o = tl.arange(0, BN)
    b_change, b_base = tl.zeros([BN], tl.float64), tl.zeros([BN], tl.float64)
    for i_part in range(0, count, BN):
        m = i_part + o < count
        b_change += tl.load(p_partial + i_part + o, mask=m, other=0.0).to(tl.float64)
        b_base += tl.load(p_partial + count + i_part + o, mask=m, other=0.0).to(tl.float64)
    tl.store(p_change + i, tl.sum(b_change).to(tl.float32))
    tl.store(p_base + i, tl.sum(b_base).to(tl.float32))


def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """The two sums of squares of method.md (4), `(||(W0 - W1) M||^2, ||W0 M||^2)`, of every mask.

    fp32 within a tile, in a tree; float64 across tiles. Both weights are read once.
    """
    by_row = axis == "output"
    if base.stride(0) < base.stride(1):
        base, tuned, by_row = base.T, tuned.T, not by_row
    rows, columns = base.shape
    several = mask if mask.dim() == 2 else mask[None]
    masks = several.shape[0]
    size = max(base.element_size(), tuned.element_size())
    tile = tiles.stream_tile(rows, columns, size, whole_vectors(base, tuned))
    programs = -(-rows // tile.m) * -(-columns // tile.n)
    partial = torch.empty((masks, 2, programs), dtype=torch.float32, device=base.device)
    launch(
        perturbation_kernel,
        programs,
        tile,
        p_base=base,
        p_tuned=tuned,
        p_mask=several,
        p_partial=partial,
        rows=rows,
        columns=columns,
        masks=masks,
        stride_base_m=base.stride(0),
        stride_base_n=base.stride(1),
        stride_tuned_m=tuned.stride(0),
        stride_tuned_n=tuned.stride(1),
        stride_which=several.stride(0),
        stride_mask=several.stride(1),
        BY_ROW=by_row,
        BM=tile.m,
        BN=tile.n,
    )
    # Two allocations: results of an operator must not share memory.
    change, whole = (
        torch.empty(mask.shape[:-1], dtype=torch.float32, device=base.device) for _ in range(2)
    )
    launch(
        perturbation_add_kernel,
        masks,
        tiles.PERTURBATION_ADD,
        p_partial=partial,
        p_change=change,
        p_base=whole,
        count=programs,
        BN=tiles.PERTURBATION_ADD.n,
    )
    return change, whole
