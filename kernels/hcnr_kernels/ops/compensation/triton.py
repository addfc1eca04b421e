"""Triton kernel of both objectives of a report: method.md (8), from half of one product.

Deterministic: every program stores its sums, and they are added in a fixed order.
"""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.chunks import chunks, round_up
from hcnr_kernels.ops.gram.triton import lower_square
from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import capability, launch
from hcnr_kernels.triton.precision import product


@triton.jit
def objectives_kernel(
    p_high,  # [neurons, lines] bf16, E rounded
    p_low,  # [neurons, lines] bf16, what that leaves of E, rounded
    p_hessian,  # [width, width] fp32, symmetric
    p_mask,  # [width] bool, true on the restored neurons
    p_partial,  # [2, programs] fp64
    neurons,
    lines,
    width,
    stride_d,
    stride_t,
    stride_m,
    stride_n,
    stride_mask,
    BM: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Summands of method.md (8), `H_ij (E^T E)_ij`, over one square of the lower triangle.

    `neurons` is `width` and `lines` the lines of E, both rounded up: E is zero there. `E^T E` is
    accumulated in fp32 from all four products of `E = high + low`, the smallest first; the summands
    below the diagonal count twice. They are added in fp32 along a row of the square and in float64
    beyond: those of task neurons alone, and all.
    """
    i_program = tl.program_id(0).to(tl.int64)
    i_m, i_n = lower_square(i_program, tl.cdiv(width, BM), GROUP)
    o, o_t = tl.arange(0, BM), tl.arange(0, BK)
    # Both halves of E have fewer than 2^31 numbers: offsets of 64 bits would take twice the
    # registers.
    o_m, o_n = (i_m * BM).to(tl.int32) + o, (i_n * BM).to(tl.int32) + o
    m_m, m_n = (o_m < neurons)[:, None], (o_n < neurons)[None, :]
    left = o_m[:, None] * stride_d + o_t[None, :] * stride_t
    right = o_t[:, None] * stride_t + o_n[None, :] * stride_d
    b_sum = tl.zeros([BM, BM], tl.float32)
    # Two products a step: of four in one, Triton 3.7 makes nothing for 10.0.
    for i_half in tl.static_range(2):
        p_left = p_low if i_half == 0 else p_high
        for i_t in range(0, lines, BK):
            m_t = o_t < lines - i_t
            b_m = tl.load(p_left + i_t * stride_t + left, mask=m_m & m_t[None, :], other=0.0)
            m_right = m_t[:, None] & m_n
            b_low = tl.load(p_low + i_t * stride_t + right, mask=m_right, other=0.0)
            b_high = tl.load(p_high + i_t * stride_t + right, mask=m_right, other=0.0)
            b_sum = product(b_m, b_low, b_sum)
            b_sum = product(b_m, b_high, b_sum)
    v_m, v_n = o_m < width, o_n < width
    p_square = p_hessian + i_m * BM * stride_m + i_n * BM * stride_n
    p_h = p_square + (o[:, None] * stride_m + o[None, :] * stride_n)
    b_h = tl.load(p_h, mask=v_m[:, None] & v_n[None, :], other=0.0)
    below = o_m[:, None] - o_n[None, :]
    b = b_sum * b_h
    b = tl.where(below > 0, 2 * b, tl.where(below == 0, b, 0.0))
    # Where nothing is valid all are called restored.
    t_m = tl.load(p_mask + o_m * stride_mask, mask=v_m, other=1).to(tl.int1) == 0
    t_n = tl.load(p_mask + o_n * stride_mask, mask=v_n, other=1).to(tl.int1) == 0
    rows = tl.sum(b, 1).to(tl.float64)
    task_rows = tl.sum(tl.where(t_n[None, :], b, 0.0), 1).to(tl.float64)
    programs = tl.num_programs(0).to(tl.int64)
    tl.store(p_partial + i_program, tl.sum(tl.where(t_m, task_rows, 0.0)))
    tl.store(p_partial + programs + i_program, tl.sum(rows))


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows [d', lines]` as the sum of two bf16 matrices, laid out as it is: off by 2^-17 of it.

    Both are padded by zeros to multiples of 16, so that 16 bytes of them can be loaded at once.
    """
    across = rows if rows.stride(1) <= rows.stride(0) else rows.T
    outer, inner = (round_up(size, 16) for size in across.shape)
    allocate = torch.empty if across.shape == (outer, inner) else torch.zeros
    high, low = (
        allocate((outer, inner), dtype=torch.bfloat16, device=rows.device) for _ in range(2)
    )
    rounded = high[: across.shape[0], : across.shape[1]]
    rounded.copy_(across)
    torch.sub(across, rounded, out=low[: across.shape[0], : across.shape[1]])
    return (high, low) if across is rows else (high.T, low.T)


def objectives(
    deviation: Tensor, mask: Tensor, hessian: Tensor, axis: str
) -> tuple[Tensor, Tensor]:
    """Method.md (8) without compensation and with it, 0-d float64 each.

    What is summed is the objective of a deviation of which no entry is further than 2^-17 of itself
    from E: `high + low`. E is split so many lines at a time that both halves keep within
    `TEMPORARY_BYTES`.
    """
    rows = deviation if axis == "output" else deviation.T
    width, lines = rows.shape
    chip = capability(rows.device)
    tile = tiles.objective_tile(chip)
    side = tiles.divide_up(width, tile.m)
    programs = side * (side + 1) // 2
    parts = list(chunks(lines, tiles.objective_lines(width)))
    partial = torch.empty((len(parts), 2, programs), dtype=torch.float64, device=rows.device)
    for index, part in enumerate(parts):
        high, low = halves(rows[:, part])
        launch(
            objectives_kernel,
            programs,
            tile,
            p_high=high,
            p_low=low,
            p_hessian=hessian,
            p_mask=mask,
            p_partial=partial[index],
            neurons=high.shape[0],
            lines=high.shape[1],
            width=width,
            stride_d=high.stride(0),
            stride_t=high.stride(1),
            stride_m=hessian.stride(0),
            stride_n=hessian.stride(1),
            stride_mask=mask.stride(0),
            BM=tile.m,
            BK=tile.k,
            GROUP=tiles.GROUP,
        )
    # Two sums: results of an operator must not share memory.
    return partial[:, 0].sum(), partial[:, 1].sum()
