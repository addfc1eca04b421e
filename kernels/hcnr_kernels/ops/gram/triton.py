"""Triton kernels of the curvature accumulator: method.md (5), lower tiles only.

Deterministic: a tile summed by several programs goes through memory and is added in order.
"""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import capability, launch, whole_vectors
from hcnr_kernels.triton.precision import product


@triton.jit
def triangle(index):
    """Row and column of entry `index` (int64, below 2^40) of a lower triangle, row after row."""
    # The fp32 root is off by less than one; the integers settle it.
    root = tl.sqrt((8 * index + 1).to(tl.float32))
    row = ((root - 1) * 0.5).to(tl.int64)
    row = tl.where(row * (row + 1) // 2 > index, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= index, row + 1, row)
    return row, index - row * (row + 1) // 2


@triton.jit
def lower_square(index, side, GROUP: tl.constexpr):
    """Row and column of square `index` of the lower triangle of `side` rows of squares.

    `GROUP` rows are walked together, column after column: programs that run at the same time share
    both their rows and their columns of x in the L2 cache. A group starts at the number of squares
    above it, a triangular number.
    """
    row, _ = triangle(index)
    first = row // GROUP * GROUP
    index -= first * (first + 1) // 2
    height = tl.minimum(side - first, GROUP)
    before = first * height
    own_row, own_column = triangle(tl.maximum(index - before, 0))
    left = index < before
    return (
        first + tl.where(left, index % height, own_row),
        tl.where(left, index // height, first + own_column),
    )


@triton.jit
def lower_tile(index, width, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """First row and column of tile `index` of `[BM, BN]`: a square of BN is BN / BM tiles."""
    rows: tl.constexpr = BN // BM
    i_m, i_n = lower_square(index // rows, tl.cdiv(width, BN), GROUP)
    return i_m * BN + index % rows * BM, i_n * BN


@triton.jit
def _store(p_rows, m_rows, first, width, stride, b, add, BM: tl.constexpr, BN: tl.constexpr):
    """Store, or `add`, `b [BM, BN]` at columns `first` on of the rows that start at `p_rows [BM]`.

    In halves down to 64 columns: an old and a new tile together do not fit in the registers.
    """
    if BN > 64:
        b_left, b_right = tl.split(b.reshape(BM, 2, BN // 2).permute(0, 2, 1))
        _store(p_rows, m_rows, first, width, stride, b_left, add, BM, BN // 2)
        _store(p_rows, m_rows, first + BN // 2, width, stride, b_right, add, BM, BN // 2)
    else:
        o_n = first + tl.arange(0, BN)
        p = p_rows[:, None] + o_n[None, :] * stride
        m = m_rows[:, None] & (o_n < width)[None, :]
        if add:
            b += tl.load(p, mask=m, other=0.0)
        tl.store(p, b, mask=m)


@triton.jit(do_not_specialize=["tokens", "whole", "parts", "share"])
def gram_kernel(
    p_x,  # [tokens, width]
    p_gram,  # [width, width] fp32, updated
    p_partial,  # [programs - whole, BM, BN] fp32
    tokens,
    width,
    stride_t,
    stride_d,
    stride_m,
    stride_n,
    whole,
    parts,
    share,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Method.md (5) without the 1/n: one tile of `x^T x`, accumulated in fp32.

    The first `whole` programs add all tokens of a tile to `gram`; each of the other tiles is shared
    by `parts` programs, which store their sums of `share` tokens.
    """
    i_program = tl.program_id(0).to(tl.int64)
    start, stop, i_tile = i_program * 0, i_program * 0 + tokens, i_program
    if i_program >= whole:
        i_tile = whole + (i_program - whole) // parts
        start = (i_program - whole) % parts * share
        stop = tl.minimum(start + share, tokens)
    first_m, first_n = lower_tile(i_tile, width, BM, BN, GROUP)
    # The last square may have rows of tiles beyond the matrix.
    if first_m < width:
        o_m, o_n = first_m + tl.arange(0, BM), first_n + tl.arange(0, BN)
        o_t = tl.arange(0, BK)
        m_m, m_n = (o_m < width)[:, None], (o_n < width)[None, :]
        # The left operand is addressed as x^T: a load followed by a transposition is not pipelined
        # on 8.0.
        p_m = p_x + o_m[:, None] * stride_d + (start + o_t)[None, :] * stride_t
        p_n = p_x + (start + o_t)[:, None] * stride_t + o_n[None, :] * stride_d
        step = tl.full([], BK, tl.int64) * stride_t
        b_sum = tl.zeros([BM, BN], tl.float32)
        left = (stop - start).to(tl.int32)
        for i_t in range(0, left, BK):
            m_t = o_t < left - i_t
            b_m = tl.load(p_m, mask=m_m & m_t[None, :], other=0.0)
            b_n = tl.load(p_n, mask=m_t[:, None] & m_n, other=0.0)
            b_sum = product(b_m, b_n, b_sum)
            p_m += step
            p_n += step
        if i_program < whole:
            # Added last: products added to a large sum one by one would lose their low bits.
            p_rows = p_gram + o_m * stride_m
            _store(p_rows, o_m < width, first_n, width, stride_n, b_sum, True, BM, BN)
        else:
            p_rows = p_partial + (i_program - whole) * (BM * BN) + tl.arange(0, BM) * BN
            _store(p_rows, o_m < width, first_n * 0, BN, 1, b_sum, False, BM, BN)


@triton.jit(do_not_specialize=["whole", "parts"])
def gram_add_kernel(
    p_partial,  # [tiles * parts, BM, BN] fp32
    p_gram,  # [width, width] fp32, updated
    width,
    stride_m,
    stride_n,
    whole,
    parts,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Second stage of `gram_kernel`: BR rows of a tile, the parts added in order in fp32."""
    i_program = tl.program_id(0).to(tl.int64)
    i_tile = i_program // (BM // BR)
    first_m, first_n = lower_tile(whole + i_tile, width, BM, BN, GROUP)
    o_r = i_program % (BM // BR) * BR + tl.arange(0, BR)
    o_c = tl.arange(0, BN)
    o_m, o_n = first_m + o_r, first_n + o_c
    m_tile = (o_m < width)[:, None] & (o_n < width)[None, :]
    p_part = p_partial + (i_tile * parts * BM + o_r)[:, None] * BN + o_c[None, :]
    b_sum = tl.zeros([BR, BN], tl.float32)
    for _ in range(parts):
        b_sum += tl.load(p_part, mask=m_tile, other=0.0)
        p_part += BM * BN
    p_rows = p_gram + o_m * stride_m
    _store(p_rows, o_m < width, first_n, width, stride_n, b_sum, True, BR, BN)


def gram_(gram: Tensor, x: Tensor) -> None:
    """Method.md (5) without the 1/n: `gram += x^T x`, on the tiles that touch the lower triangle.

    Narrow 16-bit x on a GPU goes to cuBLAS instead: `tiles.gram_by_library`.
    """
    tokens, width = x.shape
    if tokens == 0 or width == 0:
        return
    # The library would copy an x without a dense dimension; and on a CPU it has no such result.
    dense = 1 in x.stride() and x.device.type != "cpu"
    if dense and tiles.gram_by_library(width, x.element_size()):
        gram.add_(torch.mm(x.T, x, out_dtype=torch.float32))
        return
    chip = capability(x.device)
    tile = tiles.gram_tile(x.element_size(), whole_vectors(x), chip)
    side = -(-width // tile.n)
    count = side * (side + 1) // 2 * (tile.n // tile.m)
    division = tiles.divide_tokens(count, tokens, tile, chip)
    rest = count - division.whole
    partial = torch.empty(
        (rest * division.parts, tile.m, tile.n), dtype=torch.float32, device=x.device
    )
    launch(
        gram_kernel,
        division.whole + partial.shape[0],
        tile,
        p_x=x,
        p_gram=gram,
        p_partial=partial,
        tokens=tokens,
        width=width,
        stride_t=x.stride(0),
        stride_d=x.stride(1),
        stride_m=gram.stride(0),
        stride_n=gram.stride(1),
        whole=division.whole,
        parts=division.parts,
        share=division.share,
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        GROUP=tiles.GROUP,
    )
    rows = tiles.GRAM_ADD_ROWS
    launch(
        gram_add_kernel,
        rest * (tile.m // rows),
        tile._replace(num_warps=4, num_stages=2),
        p_partial=partial,
        p_gram=gram,
        width=width,
        stride_m=gram.stride(0),
        stride_n=gram.stride(1),
        whole=division.whole,
        parts=division.parts,
        BM=tile.m,
        BN=tile.n,
        BR=rows,
        GROUP=tiles.GROUP,
    )


@triton.jit
def symmetrize_kernel(
    p_gram,  # [width, width], updated
    width,
    stride_m,
    stride_n,
    BM: tl.constexpr,
):
    """Stores one square of the lower triangle transposed; nothing is computed, no bit changes."""
    i_m, i_n = triangle(tl.program_id(0).to(tl.int64))
    o_m, o_n = i_m * BM + tl.arange(0, BM), i_n * BM + tl.arange(0, BM)
    p_lower = p_gram + o_m[:, None] * stride_m + o_n[None, :] * stride_n
    b_lower = tl.load(p_lower, mask=(o_m < width)[:, None] & (o_n < width)[None, :])
    b_upper = tl.trans(b_lower)
    if i_m == i_n:
        # Storing a whole square, its lower half unchanged, keeps the stores vectors.
        b_upper = tl.where(o_n[:, None] < o_m[None, :], b_upper, b_lower)
    p_upper = p_gram + o_n[:, None] * stride_m + o_m[None, :] * stride_n
    tl.store(p_upper, b_upper, mask=(o_n < width)[:, None] & (o_m < width)[None, :])


def symmetrize_(gram: Tensor) -> None:
    """Copy the lower triangle of `gram [d, d]` onto the upper one, tile by tile."""
    width = gram.shape[0]
    tile = tiles.mirror_tile(gram.element_size())
    side = -(-width // tile.m)
    launch(
        symmetrize_kernel,
        side * (side + 1) // 2,
        tile,
        p_gram=gram,
        width=width,
        stride_m=gram.stride(0),
        stride_n=gram.stride(1),
        BM=tile.m,
    )
