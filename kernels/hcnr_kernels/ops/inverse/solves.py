"""Solves with the Cholesky factor of one large matrix: of many right-hand sides, and of a few."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hcnr_kernels.ops.inverse.factor import Cholesky
from hcnr_kernels.ops.inverse.tiling import Tiling, at, tiling_for

Corner = tuple[int, int, Tensor]
"""First and last column (exclusive) of a diagonal block of the factor, and its inverse."""

Panel = tuple[int, int, Sequence[Corner]]
"""First and last column (exclusive) of a panel, and the diagonal blocks that it consists of."""


def solve_(cholesky: Cholesky, right: Tensor, tiling: Tiling) -> Tensor:
    """`right (L L^T)^-1` in place, `right [r, d]` with contiguous rows: `2 d^2 r` operations."""
    panels = _tiles(cholesky, tiling)
    _forward(cholesky, panels, right, right)
    _backward(cholesky, panels, right, right)
    return right


def solver_of(cholesky: Cholesky, tiling: Tiling | None = None) -> Callable[[Tensor], Tensor]:
    """What multiplies a few contiguous rows `[..., r, d]` by the inverse, in place.

    A second matrix as large as they are saves a launch for every block of the diagonal. On a GPU
    that block is a whole panel: its inverse is put together once, `[panel, panel]` each, `d panel`
    numbers in all, for a quarter of the launches of a solve by tiles.
    """
    tiling = tiling or tiling_for(cholesky.factor.device)
    panels = (_whole_panels if tiling.whole_panels else _tiles)(cholesky, tiling)

    def solve(right: Tensor) -> Tensor:
        rows = right.view(-1, right.shape[-1])
        half = torch.empty_like(rows)
        _forward(cholesky, panels, rows, half)
        _backward(cholesky, panels, half, rows)
        return right

    return solve


def _tiles(cholesky: Cholesky, tiling: Tiling) -> list[Panel]:
    """Every panel by its tiles."""
    return [
        (low, high, [(*tile, cholesky.corners[tile[0]]) for tile in cholesky.tiles(low, high)])
        for low, high in cholesky.panels(tiling.panel)
    ]


def _whole_panels(cholesky: Cholesky, tiling: Tiling) -> list[Panel]:
    """Every panel as one block of the diagonal."""
    bounds = list(cholesky.panels(tiling.panel))
    inverses = [] if cholesky.rows is not None else _equal_panels(cholesky, bounds)
    for low, high in bounds[len(inverses) :]:
        if cholesky.rows is not None:
            inverses.append(at(cholesky.factor, low, low, high - low, high - low).triu().T)
            continue
        tiles = cholesky.tiles(low, high)
        inverse = cholesky.corners[low]
        if len(tiles) > 1:
            inverse = inverse.new_zeros(high - low, high - low)
            for first, last in tiles:
                start, width = first - low, last - first
                at(inverse, start, start, width, width).copy_(cholesky.corners[first])
            _join_(cholesky, inverse, low, low, high)
        inverses.append(inverse)
    return [
        (low, high, [(low, high, inverse)])
        for (low, high), inverse in zip(bounds, inverses, strict=True)
    ]


def _equal_panels(cholesky: Cholesky, bounds: list[tuple[int, int]]) -> list[Tensor]:
    """Inverses of the first panels, if of a power of two of equal tiles, all put together at once.

    With the inverses W of both halves, the corner below them is `-W2 L21 W1`, as in `_join_`.
    """
    width = bounds[0][1]
    tiles = [
        cholesky.tiles(low, high)
        for low, high in itertools.takewhile(lambda one: one[1] - one[0] == width, bounds)
    ]
    parts = len(tiles[0])
    size = width // parts
    if any(high - low != size for panel in tiles for low, high in panel) or parts & (parts - 1):
        return []
    corners = torch.stack([cholesky.corners[low] for panel in tiles for low, _ in panel])
    inverse = corners.new_zeros(len(tiles), width, width)
    diagonal = inverse.view(-1, parts, size, parts, size).diagonal(dim1=1, dim2=3)
    diagonal.copy_(corners.view(-1, parts, size, size).permute(0, 2, 3, 1))
    matrix, begin = cholesky.factor, cholesky.factor.storage_offset()
    stride = matrix.stride(0)
    while size < width:
        shape = len(tiles), width // (2 * size), size, size
        strides = width * width, 2 * size * (width + 1), width, 1
        first, last, corner = (
            inverse.as_strided(shape, strides, offset)
            for offset in (0, size * (width + 1), size * width)
        )
        below = matrix.as_strided(
            (shape[0] * shape[1], size, size),
            (2 * size * (stride + 1), stride, 1),
            begin + size * stride,
        )
        product = torch.bmm(below, first.reshape(-1, size, size))
        product = torch.bmm(last.reshape(-1, size, size), product)
        torch.neg(product.view(shape), out=corner)
        size *= 2
    return list(inverse)


def _join_(cholesky: Cholesky, inverse: Tensor, low: int, first: int, last: int) -> None:
    """Inverse of `L[first:last, first:last]` from those of its tiles, in `inverse` from `low` on.

    With the inverses W of both halves, the corner below them is `-W2 L21 W1`.
    """
    tiles = cholesky.tiles(first, last)
    if len(tiles) < 2:
        return
    middle = tiles[len(tiles) // 2][0]
    _join_(cholesky, inverse, low, first, middle)
    _join_(cholesky, inverse, low, middle, last)
    left, right = middle - first, last - middle
    start, centre = first - low, middle - low
    product = torch.mm(
        at(cholesky.factor, middle, first, right, left), at(inverse, start, start, left, left)
    )
    corner = at(inverse, centre, start, right, left)
    lower = at(inverse, centre, centre, right, right)
    torch.addmm(corner, lower, product, beta=0, alpha=-1, out=corner)


def _forward(cholesky: Cholesky, panels: list[Panel], right: Tensor, result: Tensor) -> None:
    """`result = right L^-T`; `right` is overwritten, and may be `result`."""
    matrix, rows = cholesky.factor, right.shape[0]
    for low, high, corners in panels:
        if low:
            factor = at(matrix, low, 0, high - low, low)
            before = at(result, 0, 0, rows, low)
            at(right, 0, low, rows, high - low).addmm_(before, factor.T, alpha=-1)
        for first, last, inverse in corners:
            tile = at(right, 0, first, rows, last - first)
            if first > low:
                factor = at(matrix, first, low, last - first, first - low)
                tile.addmm_(at(result, 0, low, rows, first - low), factor.T, alpha=-1)
            _divide(tile, inverse.T, result, first, result is right)


def _backward(cholesky: Cholesky, panels: list[Panel], right: Tensor, result: Tensor) -> None:
    """`result = right L^-1`; `right` is overwritten, and may be `result`."""
    matrix, rows, bottom = cholesky.factor, right.shape[0], cholesky.edges[-1]
    for low, high, corners in reversed(panels):
        if high < bottom:
            factor = at(matrix, high, low, bottom - high, high - low)
            after = at(result, 0, high, rows, bottom - high)
            at(right, 0, low, rows, high - low).addmm_(after, factor, alpha=-1)
        for first, last, inverse in reversed(corners):
            tile = at(right, 0, first, rows, last - first)
            if last < high:
                factor = at(matrix, last, first, high - last, last - first)
                tile.addmm_(at(result, 0, last, rows, high - last), factor, alpha=-1)
            _divide(tile, inverse, result, first, result is right)


def _divide(tile: Tensor, inverse: Tensor, result: Tensor, first: int, in_place: bool) -> None:
    """`tile @ inverse` into the columns of `result` from `first` on, which may be the tile."""
    if in_place:
        tile.copy_(torch.mm(tile, inverse))
    else:
        torch.mm(tile, inverse, out=at(result, 0, first, *tile.shape))
