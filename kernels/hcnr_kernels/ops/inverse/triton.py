"""Triton kernels of one large damped inverse: a Cholesky factor, and on to the inverse, in place.

The lower triangle is cut into squares of `B`. Step k takes `B` columns, as the compiled extension
does for small blocks (`docs/cholesky.md`): with `L` the factor of square (k, k) and `W = L^-1`

    P_I = A_Ik W^T   I > k     P_k = W^T     P_I = A_kI^T W^T   I < k        divide_kernel
    A_IJ -= P_I P_J^T,  row and column k cleared first                       eliminate_kernel

The first program of `eliminate_kernel` takes the next square of the diagonal and factorises it
while the others are still at their products: no step waits for a factor alone. All is fp32, its
products three of TF32 (`precision.product`). Deterministic: every square has one program a launch.
"""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hcnr_kernels.chunks import round_up
from hcnr_kernels.ops.gram.triton import triangle
from hcnr_kernels.ops.inverse.square import divided, factorise_square, left_over, product_with
from hcnr_kernels.ops.inverse.tiling import at
from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.launch import capability, launch, whole_vectors
from hcnr_kernels.triton.tiles import Tile


@triton.jit(do_not_specialize=["width", "step", "first_row", "first_column"])
def eliminate_kernel(
    p_matrix,  # [width, width] fp32, lower triangle, updated
    p_panel,  # [width, depth] fp32: P, rows `stride_p` apart
    p_corner,  # [2, BT, BT] fp32: L and L^-1 of the next square of the diagonal, written
    p_order,  # int32: order of the first failing minor, 0 if none, updated
    width,
    columns,
    stride,
    stride_p,
    step,
    first_row,
    first_column,
    depth,
    BT: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    """Squares (I, J) from row `first_row` on, J from `first_column` to I, less `P_I P_J^T`.

    The first program factorises what is left of square (step + 1, step + 1). Before the first step
    there is nothing to subtract: `depth` is 0.
    """
    i_program = tl.program_id(0).to(tl.int64)
    following = step + 1
    if i_program == 0:
        if following * BT < width:
            factorise_square(
                p_matrix, p_panel, p_corner, p_order, following * BT, width, columns, stride,
                stride_p, depth, BT, BM, BK,
            )  # fmt: skip
    else:
        square = i_program - 1
        i_m, i_n = triangle(square + first_row * (first_row + 1) // 2)
        if first_column > 0:
            i_m, i_n = triangle(square)
            i_m += first_row
            i_n += first_column
        if (i_m != following) | (i_n != following):
            cleared = (i_m == step) | (i_n == step)
            first_m, first_n = (i_m * BT).to(tl.int32), (i_n * BT).to(tl.int32)
            b = left_over(
                p_matrix, p_panel, first_m, first_n, width, columns, stride, stride_p, depth,
                cleared, BT, BT, BK,
            )  # fmt: skip
            o = tl.arange(0, BT)
            p = p_matrix + first_m.to(tl.int64) * stride + first_n
            m = (o < width - first_m)[:, None] & (o < columns - first_n)[None, :]
            tl.store(p + (o[:, None] * stride + o[None, :]), b, mask=m)


@triton.jit(do_not_specialize=["width", "step", "first_row"])
def divide_kernel(
    p_matrix,  # [width, width] fp32, lower triangle
    p_panel,  # [width, BT] fp32: P, rows `stride_p` apart, written from `first_row` on
    p_corner,  # [2, BT, BT] fp32: L and L^-1 of square (step, step)
    width,
    stride,
    stride_p,
    step,
    first_row,
    BT: tl.constexpr,
    BM: tl.constexpr,
):
    """BM rows of the panel of step `step`: what is in column k below square (k, k), in row k before
    it, divided by L; `L^-T` itself between them.
    """  # noqa: D205
    H: tl.constexpr = BT // 2
    start = step * BT
    row = first_row + tl.program_id(0) * BM
    o_m, o = row + tl.arange(0, BM), tl.arange(0, H)
    m = (o_m < width)[:, None]
    p = p_panel + o_m.to(tl.int64)[:, None] * stride_p + o[None, :]
    if (row >= start) & (row < start + BT):
        # P_k = W^T.
        p_inverse = p_corner + BT * BT + (o_m - start)[:, None]
        tl.store(p, tl.load(p_inverse + o[None, :] * BT), mask=m)
        tl.store(p + H, tl.load(p_inverse + (H + o)[None, :] * BT), mask=m)
    else:
        if row >= start + BT:
            p_below = p_matrix + o_m.to(tl.int64)[:, None] * stride + (start + o)[None, :]
            b = tl.load(p_below, mask=m, other=0.0)
            b_right = tl.load(p_below + H, mask=m, other=0.0)
        else:
            o_k = (start + o)[None, :]
            p_before = p_matrix + o_k.to(tl.int64) * stride + o_m[:, None]
            p_right = p_before + tl.full([], H, tl.int64) * stride
            b = tl.load(p_before, mask=o_k < width, other=0.0)
            b_right = tl.load(p_right, mask=H + o_k < width, other=0.0)
        b = divided(b, p_corner, BT, H)
        tl.store(p, b, mask=m)
        b_right -= product_with(b, p_corner + H * BT, BT, H)
        b = divided(b_right, p_corner + H * BT + H, BT, H)
        tl.store(p + H, b, mask=m)


@triton.jit(do_not_specialize=["first_row"])
def finish_kernel(
    p_matrix,  # [width, width] fp32: minus the inverse in the lower triangle, updated
    width,
    stride,
    first_row,
    BT: tl.constexpr,
):
    """One square from row `first_row` of squares on, negated; where they have it, mirrored too."""
    square = tl.program_id(0).to(tl.int64) + first_row * (first_row + 1) // 2
    i_m, i_n = triangle(square)
    o_m, o_n = i_m * BT + tl.arange(0, BT), i_n * BT + tl.arange(0, BT)
    p = p_matrix + o_m[:, None] * stride + o_n[None, :]
    m = (o_m < width)[:, None] & (o_n < width)[None, :]
    b = -tl.load(p, mask=m, other=0.0)
    if i_m == i_n:
        b = tl.where(o_m[:, None] >= o_n[None, :], b, tl.trans(b))
    tl.store(p, b, mask=m)
    if (i_m != i_n) & (i_n >= first_row):
        p = p_matrix + o_n[:, None] * stride + o_m[None, :]
        tl.store(p, tl.trans(b), mask=(o_n < width)[:, None] & (o_m < width)[None, :])


class Eliminated(NamedTuple):
    """What becomes of a matrix.

    Attributes:
        factor: `[d, d]`, the factor L below the squares of its diagonal; None if it was not kept.
        corners: `[squares, 2, B, B]`, L and `L^-1` of every square of the diagonal, zero above
            theirs; the last one is padded by an identity.
        order: 0-d int32: the first leading minor that is not positive definite, 0 if none.
        rows: `[d, d]`, what `finish_` makes the rows of the inverse of; None for a factor alone.
    """

    factor: Tensor | None
    corners: Tensor
    order: Tensor
    rows: Tensor | None


def factor_(matrix: Tensor) -> Eliminated:
    """Cholesky factor L of `[d, d]` fp32, below the squares of its diagonal; in place if aligned.

    Rows contiguous; only the lower triangle is read. The rest is unspecified once a minor failed.
    """
    square = tiles.elimination_tile(capability(matrix.device))
    width, matrix = matrix.shape[0], _aligned(matrix)
    corners, order = _first(matrix, square)
    for step in range(len(corners) - 1):
        low = step * square.m
        panel = at(matrix, 0, low, width, square.m)
        _divide(matrix, panel, corners, step, low + square.m, square)
        _eliminate(matrix, panel, corners, order, step, step + 1, step + 1, square)
    return Eliminated(matrix, corners, order, None)


def invert_(matrix: Tensor, split: int = 0, *, keep: bool = False) -> Eliminated:
    """Rows `split:` of the inverse of `[d, d]` fp32, and some above them; in place if aligned.

    What it leaves is minus those rows, up to the diagonal: `finish_` does the rest.

    Args:
        matrix: Rows contiguous; only the lower triangle is read.
        split: The first row that is wanted.
        keep: Whether to keep the factor: L below the squares of the diagonal, `L^-T` on them and
            above, a second matrix.
    """
    square = tiles.elimination_tile(capability(matrix.device))
    width, matrix = matrix.shape[0], _aligned(matrix)
    corners, order = _first(matrix, square)
    last, count = split // square.m, len(corners)
    panel_columns = square.m * (count if keep else 1)
    panels = torch.empty(width, panel_columns, dtype=torch.float32, device=matrix.device)
    for step in range(count):
        panel = at(panels, 0, step * square.m if keep else 0, width, square.m)
        _divide(matrix, panel, corners, step, 0, square)
        _eliminate(matrix, panel, corners, order, step, min(step + 1, last), 0, square)
    factor = panels[:, :width] if keep else None
    return Eliminated(factor, corners, order, matrix)


def finish_(rows: Tensor, split: int = 0) -> Tensor:
    """Rows `split:` of the inverse, exactly symmetric, from what `invert_` leaves: a view."""
    square = tiles.elimination_tile(capability(rows.device)).m
    mirror = tiles.mirror_tile(rows.element_size())
    first_row = split // square * square // mirror.m
    side = tiles.divide_up(rows.shape[0], mirror.m)
    launch(
        finish_kernel,
        _squares(side) - _squares(first_row),
        mirror,
        p_matrix=rows,
        width=rows.shape[0],
        stride=rows.stride(0),
        first_row=first_row,
        BT=mirror.m,
    )
    return rows[split:]


def _aligned(matrix: Tensor) -> Tensor:
    """The matrix, or a copy of it, in whole vectors of 16 bytes, zero from its width on."""
    if whole_vectors(matrix):
        return matrix
    width = matrix.shape[0]
    return matrix.new_zeros(width, round_up(width, 16))[:, :width].copy_(matrix)


def _squares(side: int) -> int:
    """Squares of a lower triangle."""
    return side * (side + 1) // 2


def _first(matrix: Tensor, square: Tile) -> tuple[Tensor, Tensor]:
    """Corners and order, when the first square has been factorised: nothing to subtract from it."""
    count = tiles.divide_up(matrix.shape[0], square.m)
    shape = count, 2, square.m, square.m
    corners = torch.empty(shape, dtype=torch.float32, device=matrix.device)
    order = torch.zeros((), dtype=torch.int32, device=matrix.device)
    _eliminate(matrix, matrix, corners, order, -1, count, count, square)
    return corners, order


def _divide(
    matrix: Tensor, panel: Tensor, corners: Tensor, step: int, first: int, square: Tile
) -> None:
    """Rows `first:` of the panel of a step."""
    tile = tiles.division_tile(square)
    launch(
        divide_kernel,
        tiles.divide_up(matrix.shape[0] - first, tile.m),
        tile,
        p_matrix=matrix,
        p_panel=panel,
        p_corner=corners[step],
        width=matrix.shape[0],
        stride=matrix.stride(0),
        stride_p=panel.stride(0),
        step=step,
        first_row=first,
        BT=square.m,
        BM=tile.m,
    )


def _eliminate(
    matrix: Tensor, panel: Tensor, corners: Tensor, order: Tensor, step: int, first_row: int,
    first_column: int, square: Tile,
) -> None:  # fmt: skip
    """Squares from a row and a column on, less the product of the panel with itself."""
    side = len(corners)
    squares = _squares(side - first_row) if first_column else _squares(side) - _squares(first_row)
    launch(
        eliminate_kernel,
        1 + squares,
        square,
        p_matrix=matrix,
        p_panel=panel,
        p_corner=corners[min(step + 1, side - 1)],
        p_order=order,
        width=matrix.shape[0],
        columns=round_up(matrix.shape[0], 16),
        stride=matrix.stride(0),
        stride_p=panel.stride(0),
        step=step,
        first_row=first_row,
        first_column=first_column,
        depth=square.m if step >= 0 else 0,
        BT=square.m,
        BM=square.n,
        BK=square.k,
    )
