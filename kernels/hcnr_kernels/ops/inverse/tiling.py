"""How one large matrix is cut into tiles, panels and pieces."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tiling(NamedTuple):
    """How a matrix is cut.

    Attributes:
        tile: Width of a tile.
        panel: Width of the panels that are updated at once.
        piece: Width of one piece of a product.
        compiled: Whether tiles go to the compiled extension, where it takes them.
        whole_panels: Whether a few right-hand sides are divided by a panel at once.
        fused: Whether the Triton kernels take what they can, with tiles of their own.
    """

    tile: int
    panel: int
    piece: int
    compiled: bool = False
    whole_panels: bool = False
    fused: bool = False


CPU_TILING = Tiling(tile=64, panel=512, piece=256)
"""LAPACK's time per column grows quickly beyond 64 columns; panels of 384 to 768 are alike, and at
d = 4096 on one thread a third faster than tiles alone. Products take nearly all the time: with the
compiled extension's tiles, of 64 to 256, nothing was gained."""

GPU_TILING = Tiling(tile=256, panel=1024, piece=1024, compiled=True, whole_panels=True, fused=True)
"""Not measured: fewer launches, and products that fill the device."""


def tiling_for(device: torch.device) -> Tiling:
    """The tiling of a device."""
    return CPU_TILING if device.type == "cpu" else GPU_TILING


def at(matrix: Tensor, row: int, column: int, rows: int, columns: int) -> Tensor:
    """A view of `matrix[row:, column:]`: one call, where slicing twice takes twice as long."""
    stride = matrix.stride(0)
    offset = matrix.storage_offset() + row * stride + column
    return matrix.as_strided((rows, columns), (stride, 1), offset)


def tile_edges(low: int, high: int, tile: int) -> list[int]:
    """Edges of about equal tiles, none wider than `tile`, that cover `low:high`."""
    count = max(1, -(-(high - low) // tile))
    return [low + (high - low) * place // count for place in range(count + 1)]
