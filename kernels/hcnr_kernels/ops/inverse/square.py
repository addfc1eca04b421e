"""Triton: a square of a damped inverse: what is left of it, its Cholesky factor, divisions."""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from hcnr_kernels.triton.precision import product

LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def product_with(b_left, p_right, stride, B: tl.constexpr):
    """`b_left [M, B] R^T` of a square `R [B, B]` of fp32 in memory, its rows `stride` apart."""
    o = tl.arange(0, B)
    b_right = tl.load(p_right + o[None, :] * stride + o[:, None])
    b_sum = tl.zeros([b_left.shape[0], B], tl.float32)
    return product(b_left, b_right, b_sum)


@triton.jit
def divided(b, p_corner, BT: tl.constexpr, B: tl.constexpr):
    """`b [M, B] L^-T`, L `[B, B]` at `p_corner` with rows of BT, its inverse BT rows below it.

    The product with the inverse, corrected once by its residual: as exact as substitution.
    """
    p_inverse = p_corner + BT * BT
    b_quotient = product_with(b, p_inverse, BT, B)
    b -= product_with(b_quotient, p_corner, BT, B)
    return b_quotient + product_with(b, p_inverse, BT, B)


@triton.jit
def factorise(p_corner, b, unit, failing, first, BT: tl.constexpr, B: tl.constexpr):
    """Store L and W of `b [B, B]` at `p_corner`, with zeros above, by one column after the other.

    Only the lower triangle of `b` enters, `unit [B]` rows of it as those of the identity. Column j
    holds what is left of A below the diagonal, and the partial sums of `W^T` above it: row j is
    cleared before it begins to hold them. Both are divided by the root of their pivot at the end.
    Returns `failing`: if it was 0, the order `first + j + 1` of the first minor that is not
    positive definite; its column is left out, so that nothing grows without bound.
    """
    o = tl.arange(0, B)
    rows, columns = o[:, None], o[None, :]
    # Through memory into a layout in which a row belongs to one warp: a product's does not, and
    # every column of it would wait for the warps twice as often.
    p = p_corner + rows * BT + columns
    tl.store(p, b)
    tl.debug_barrier()
    b = tl.where(unit[:, None] & (rows == columns), 1.0, tl.load(p))
    roots = tl.zeros([B], tl.float32)
    for j in range(B):
        x = tl.sum(tl.where(columns == j, b, 0.0), 1)
        pivot = tl.sum(tl.where(o == j, x, 0.0), 0)
        good = (pivot > 0) & (pivot <= LARGEST)
        failing = tl.where(good | (failing != 0), failing, first + j + 1)
        root = tl.where(good, tl.rsqrt(tl.where(good, pivot, 1.0)), 0.0)
        x = tl.where(o == j, root, x * root)
        y = tl.where(o > j, x, 0.0)
        b = tl.where((rows == j) & (columns > j), 0.0, b) - x[:, None] * y[None, :]
        roots = tl.where(o == j, root, roots)
    b = tl.where(roots[None, :] > 0, b, 0.0) * roots[None, :]
    tl.debug_barrier()
    tl.store(p, tl.where(rows >= columns, b, 0.0))
    b = tl.where(rows == columns, roots[None, :], tl.where(rows < columns, b, 0.0))
    tl.store(p + BT * BT, tl.trans(b))
    return failing


@triton.jit
def row_products(
    p_left, stride_left, rows_left, p_right, stride_right, step_right, rows_right, depth,
    M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`left right^T [M, N]` of rows of `depth`, a multiple of BK; zero from `rows_left` on.

    `step_right` is the distance of neighbours in a row of `right`; those of `left` are adjacent.
    """
    o_m, o_n, o_k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, BK)
    m_left, m_right = (o_m < rows_left)[:, None], (o_n < rows_right)[None, :]
    o_left = o_m[:, None] * stride_left + o_k[None, :]
    o_right = o_n[None, :] * stride_right + o_k[:, None] * step_right
    b_sum = tl.zeros([M, N], tl.float32)
    for i_k in range(0, depth, BK):
        b_left = tl.load(p_left + i_k + o_left, mask=m_left, other=0.0)
        b_right = tl.load(p_right + i_k * step_right + o_right, mask=m_right, other=0.0)
        b_sum = product(b_left, b_right, b_sum)
    return b_sum


@triton.jit
def left_over(
    p_matrix, p_panel, first_m, first_n, width, columns, stride, stride_p, depth, cleared,
    M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`A_IJ - P_I P_J^T [M, N]`, A taken for zero if `cleared`, as beyond the matrix.

    `columns` is `width` rounded up to whole vectors; A is zero between.
    """
    first = first_m.to(tl.int64)
    p_m, p_n = p_panel + first * stride_p, p_panel + first_n.to(tl.int64) * stride_p
    b_sum = row_products(
        p_m, stride_p, width - first_m, p_n, stride_p, 1, width - first_n, depth, M, N, BK
    )
    o_m, o_n = tl.arange(0, M), tl.arange(0, N)
    m = (o_m < width - first_m)[:, None] & (o_n < columns - first_n)[None, :] & (cleared == 0)
    p = p_matrix + first * stride + first_n
    return tl.load(p + (o_m[:, None] * stride + o_n[None, :]), mask=m, other=0.0) - b_sum


@triton.jit
def factorise_square(
    p_matrix, p_panel, p_corner, p_order, start, width, columns, stride, stride_p, depth,
    BT: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """L and `L^-1` of what is left of the square at `start`, by halves, into `p_corner`.

    Beyond the matrix there are unit pivots.
    """
    H: tl.constexpr = BT // 2
    o, o_m = tl.arange(0, H), tl.arange(0, BM)
    p_inverse = p_corner + BT * BT
    b = left_over(
        p_matrix, p_panel, start, start, width, columns, stride, stride_p, depth, 0, H, H, BK
    )
    failing = tl.full([], 0, tl.int32)
    failing = factorise(p_corner, b, start + o >= width, failing, start, BT, H)
    tl.debug_barrier()
    middle = start + H
    p_rows = p_corner + H * BT
    b = left_over(
        p_matrix, p_panel, middle, start, width, columns, stride, stride_p, depth, 0, H, H, BK
    )
    tl.store(p_rows + o[:, None] * BT + o[None, :], b)
    tl.debug_barrier()
    for i_m in range(0, H, BM):
        p = p_rows + (i_m + o_m)[:, None] * BT + o[None, :]
        b_rows = divided(tl.load(p), p_corner, BT, H)
        tl.debug_barrier()
        tl.store(p, b_rows)
    tl.debug_barrier()
    b = left_over(
        p_matrix, p_panel, middle, middle, width, columns, stride, stride_p, depth, 0, H, H, BK
    )
    b -= row_products(p_rows, BT, H, p_rows, BT, 1, H, H, H, H, BK)
    failing = factorise(p_rows + H, b, middle + o >= width, failing, middle, BT, H)
    # Below the inverses of both halves: -W_2 (L_21 W_1); the place above them holds the product.
    p_above = p_inverse + o[:, None] * BT + (H + o)[None, :]
    b = row_products(p_rows, BT, H, p_inverse, 1, BT, H, H, H, H, BK)
    tl.store(p_above, b)
    tl.debug_barrier()
    p_last = p_inverse + H * BT + H
    b = row_products(p_last, BT, H, p_inverse + H, 1, BT, H, H, H, H, BK)
    tl.store(p_inverse + (H + o)[:, None] * BT + o[None, :], -b)
    tl.debug_barrier()
    tl.store(p_above, tl.zeros([H, H], tl.float32))
    tl.store(p_above - BT * BT, tl.zeros([H, H], tl.float32))
    if (failing != 0) & (tl.load(p_order) == 0):
        tl.store(p_order, failing)
