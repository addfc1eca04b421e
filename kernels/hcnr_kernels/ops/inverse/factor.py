"""Cholesky factor and inverse of one large symmetric matrix, by blocks and recursion.

Rows are contiguous and only the lower triangle is read. A *tile* is factorised by LAPACK, or on a
GPU by the compiled extension; everything else is a matrix product, the larger the further up the
recursion. `d^3 / 3` operations for the factor and `2 d^3 / 3` for the inverse.

The panel below a tile is solved for with the tile's factor, not just multiplied by the tile's
inverse: that would be faster by a tenth at d = 256, but it is not backward stable, and fails at
condition 1e6. On a GPU the product is corrected once by its residual, which is as exact.

On a GPU fp32 goes through two Triton kernels instead (`triton.py`), up to the inverse where it is
wanted; what is said of the CPU holds there for float64, and where there is no Triton.
"""

import importlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hcnr_kernels import native
from hcnr_kernels.chunks import chunks
from hcnr_kernels.ops.inverse.tiling import Tiling, at, tile_edges
from hcnr_kernels.triton.launch import interpreting, missing


class Cholesky(NamedTuple):
    """A factor in place of the matrix.

    Attributes:
        factor: `[d, d]`, the factor L below its diagonal tiles; elsewhere unspecified.
        corners: First row of a tile -> the inverse of L's diagonal tile, zero above its diagonal.
            All that is left to do with a diagonal tile is to divide by it.
        edges: Where the tiles begin, and d.
        order: 0-d int32: the first leading minor that is not positive definite, 0 if none.
        rows: `[d, d]`, if the elimination went on to rows of the inverse: what `triton.finish_`
            makes them of. `L^-T` is then on and above the diagonal tiles of `factor`.
    """

    factor: Tensor
    corners: dict[int, Tensor]
    edges: list[int]
    order: Tensor
    rows: Tensor | None = None

    def tiles(self, low: int, high: int) -> list[tuple[int, int]]:
        """The tiles between two edges, as (first, last exclusive)."""
        inside = [edge for edge in self.edges if low <= edge <= high]
        return list(itertools.pairwise(inside))

    def panels(self, width: int) -> Iterator[tuple[int, int]]:
        """Runs of whole tiles, each about `width` wide, as (first, last exclusive)."""
        low = 0
        for first, last in self.tiles(0, self.edges[-1]):
            if last - low > width:
                yield low, first
                low = first
        yield low, self.edges[-1]


def _fuses(matrix: Tensor, tiling: Tiling) -> bool:
    """Whether the Triton kernels factorise a matrix: they take fp32."""
    somewhere = matrix.device.type != "cpu" or interpreting()
    return tiling.fused and somewhere and matrix.dtype == torch.float32 and missing() is None


def _kernels() -> Any:
    """The family's Triton kernels, imported when they are first run."""
    return importlib.import_module("hcnr_kernels.ops.inverse.triton")


def cholesky_(matrix: Tensor, tiling: Tiling, split: int = 0, *, rows: bool = False) -> Cholesky:
    """Factorise `[d, d]`, in its place or, by the Triton kernels, perhaps beside it.

    Args:
        matrix: Rows contiguous; only the lower triangle is read. Unspecified afterwards.
        tiling: Widths.
        split: The first row that `inverse_rows_` is to give. No tile straddles it, except those of
            the Triton kernels, which find some rows above it too.
        rows: Whether `inverse_rows_` follows.

    Returns:
        The factor. Once a minor has failed, the rest is unspecified.
    """
    if _fuses(matrix, tiling):
        return _eliminated(matrix, split, rows)
    width = matrix.shape[0]
    edges = tile_edges(split, width, tiling.tile)
    if split:
        edges = tile_edges(0, split, tiling.tile)[:-1] + edges
    order = torch.zeros((), dtype=torch.int32, device=matrix.device)
    cholesky = Cholesky(matrix, {}, edges, order)
    compiled = tiling.compiled and native.takes(matrix.device, matrix.dtype, tiling.tile)
    for low, high in cholesky.panels(tiling.panel):
        order = _panel_(cholesky, low, high, order, compiled)
        if order.device.type == "cpu" and int(order):
            break
        for columns in chunks(width - high, tiling.piece):
            start, size = high + columns.start, columns.stop - columns.start
            at(matrix, start, start, width - start, size).addmm_(
                at(matrix, start, low, width - start, high - low),
                at(matrix, start, low, size, high - low).T,
                alpha=-1,
            )
    return cholesky._replace(order=order)


def _eliminated(matrix: Tensor, split: int, rows: bool) -> Cholesky:
    """`cholesky_` by the Triton kernels."""
    kernels = _kernels()
    eliminated = kernels.invert_(matrix, split, keep=True) if rows else kernels.factor_(matrix)
    width, tile = matrix.shape[0], eliminated.corners.shape[-1]
    edges = [*range(0, width, tile), width]
    corners = {
        low: at(inverse, 0, 0, high - low, high - low)
        for (low, high), inverse in zip(
            itertools.pairwise(edges), eliminated.corners[:, 1], strict=True
        )
    }
    return Cholesky(eliminated.factor, corners, edges, eliminated.order, eliminated.rows)


def invert_(matrix: Tensor, tiling: Tiling) -> Tensor:
    """Inverse of `[d, d]` in place, exactly symmetric; returns the failing order, 0-d int32.

    Rows are contiguous, and only the lower triangle is read. Of a matrix that failed nothing is
    specified.
    """
    if _fuses(matrix, tiling):
        eliminated = _kernels().invert_(matrix)
        inverse = _kernels().finish_(eliminated.rows)
        if eliminated.rows is not matrix:
            matrix.copy_(inverse)
        return eliminated.order
    cholesky = cholesky_(matrix, tiling)
    if matrix.device.type != "cpu" or int(cholesky.order) == 0:
        inverse_(cholesky, tiling)
    return cholesky.order


def _panel_(cholesky: Cholesky, low: int, high: int, order: Tensor, compiled: bool) -> Tensor:
    """Columns `low:high` of the factor, down to the last row; returns the order of the failure."""
    matrix, bottom = cholesky.factor, cholesky.edges[-1]
    divide = _divide_compiled if compiled else _divide_by_lapack
    for first, last in cholesky.tiles(low, high):
        width, rows = last - first, bottom - first
        column = at(matrix, first, first, rows, width)
        if first == low:
            column = column.clone()
        else:
            left = at(matrix, first, low, rows, first - low)
            column = torch.addmm(column, left, left[:width].T, alpha=-1)
        corner, below, info = divide(column)
        if info.device.type != "cpu":
            order = torch.where((order == 0) & (info != 0), info + first, order)
        elif int(info):
            return info + first
        cholesky.corners[first] = corner
        if last < bottom:
            at(matrix, last, first, bottom - last, width).copy_(below)
    return order


Divided = tuple[Tensor, Tensor, Tensor]
"""The inverse of a tile's factor L, the rows below the tile times `L^-T`, L's failing order."""


def _divide_by_lapack(column: Tensor) -> Divided:
    """Divide `column [rows, width]` by the factor of its first tile; `column` is overwritten."""
    width = column.shape[1]
    tile = column[:width]
    factor, info = torch.linalg.cholesky_ex(tile)
    if info.device.type == "cpu" and int(info):
        return tile, column[width:], info
    # The identity above the panel: one solve gives the inverse of the tile as well.
    tile.zero_().fill_diagonal_(1)
    column = torch.linalg.solve_triangular(factor.T, column, upper=True, left=False)
    return column[:width].T.contiguous(), column[width:], info


def _divide_compiled(column: Tensor) -> Divided:
    """`_divide_by_lapack` by the compiled extension and three products."""
    width = column.shape[1]
    inverted = native.invert_blocks(column[None, :width], column.new_zeros(1), mode="factor")
    factor, corner = inverted.results[0]
    below = column[width:]
    divided = torch.mm(below, corner.T)
    divided.addmm_(torch.addmm(below, divided, factor.T, alpha=-1), corner.T)
    # A tile that is not finite fails at its first minor.
    return corner, divided, inverted.status[0].abs()


def inverse_(cholesky: Cholesky, tiling: Tiling) -> Tensor:
    """The whole inverse, exactly symmetric, in place of the factor."""
    _invert_(cholesky, 0, cholesky.edges[-1], tiling)
    return cholesky.factor


def inverse_rows_(cholesky: Cholesky, split: int, tiling: Tiling) -> Tensor:
    """Rows `split:` of the inverse, `[d - split, d]`, in place of the factor.

    With `h = split` and `t = d - h` this costs `2/3 t^3 + h^2 t + 2 t^2 h` operations after the
    factor, `2/3 h^3 + h^2 t` fewer than the whole inverse.
    """
    if cholesky.rows is not None:
        return _kernels().finish_(cholesky.rows, split)
    bottom = cholesky.edges[-1]
    _invert_(cholesky, split, bottom, tiling)
    if split:
        _divide_(cholesky, 0, split, bottom)
        corner = at(cholesky.factor, split, split, bottom - split, bottom - split)
        for columns in chunks(split, tiling.piece):
            part = at(
                cholesky.factor, split, columns.start, bottom - split, columns.stop - columns.start
            )
            torch.neg(torch.mm(corner, part), out=part)
    return cholesky.factor[split:]


def _invert_(cholesky: Cholesky, low: int, high: int, tiling: Tiling) -> None:
    """Inverse of `L[low:high, low:high] L[low:high, low:high]^T`, both triangles, in place.

    With `Y = L21 L11^-1`: `P22 = (L22 L22^T)^-1`, `P21 = -P22 Y`, `P11 = (L11 L11^T)^-1 - Y^T P21`.
    """
    matrix = cholesky.factor
    tiles = cholesky.tiles(low, high)
    if high - low <= tiling.panel or len(tiles) < 2:
        _invert_tiles_(cholesky, low, high)
        return
    middle = tiles[len(tiles) // 2][0]
    rows = high - middle
    _invert_(cholesky, middle, high, tiling)
    _divide_(cholesky, low, middle, high)
    _invert_(cholesky, low, middle, tiling)
    lower = at(matrix, middle, middle, rows, rows)
    # From the right: a piece of Y is still needed by the pieces to the right of it.
    for columns in reversed(list(chunks(middle - low, tiling.piece))):
        start, width = low + columns.start, columns.stop - columns.start
        part = at(matrix, middle, start, rows, width)
        product = torch.mm(lower, part)
        until = start + width - low
        at(matrix, start, low, width, until).addmm_(product.T, at(matrix, middle, low, rows, until))
        torch.neg(product, out=part)
        at(matrix, start, middle, width, rows).copy_(part.T)
        _mirror_(matrix, low, start, width)


def _mirror_(matrix: Tensor, low: int, start: int, width: int) -> None:
    """Copy rows `start:start + width`, from column `low` to the diagonal, above the diagonal."""
    tile = at(matrix, start, start, width, width)
    tile.tril_().add_(tile.tril(-1).T)
    if start > low:
        at(matrix, low, start, start - low, width).copy_(
            at(matrix, start, low, width, start - low).T
        )


def _divide_(cholesky: Cholesky, low: int, middle: int, high: int) -> None:
    """`L[middle:high, low:middle] L[low:middle, low:middle]^-1`, in place."""
    matrix, rows = cholesky.factor, high - middle
    for first, last in reversed(cholesky.tiles(low, middle)):
        part = at(matrix, middle, first, rows, last - first)
        if last < middle:
            part.addmm_(
                at(matrix, middle, last, rows, middle - last),
                at(matrix, last, first, middle - last, last - first),
                alpha=-1,
            )
        part.copy_(torch.mm(part, cholesky.corners[first]))


def _invert_tiles_(cholesky: Cholesky, low: int, high: int) -> None:
    """`_invert_` tile by tile, from the last: each is the step `L11` of one tile."""
    matrix = cholesky.factor
    for first, last in reversed(cholesky.tiles(low, high)):
        width, rows, root = last - first, high - last, cholesky.corners[first]
        tile = at(matrix, first, first, width, width)
        half = torch.addmm(tile, root.T, root, beta=0, alpha=0.5)
        if rows:
            part = at(matrix, last, first, rows, width)
            quotient = torch.mm(part, root)
            lower = at(matrix, last, last, rows, rows)
            torch.addmm(part, lower, quotient, beta=0, alpha=-1, out=part)
            half.addmm_(quotient.T, part, alpha=-0.5)
            at(matrix, first, last, width, rows).copy_(part.T)
        # Two halves, so that the result is symmetric to the last bit.
        torch.add(half, half.T, out=tile)
