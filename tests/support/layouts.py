"""Tensors that lie in memory in every way, for kernels that read strides; torch alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from hcnr_kernels.testing.tensors import alternate

INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def contiguous(x: Tensor) -> Tensor:
    return x.clone()


def transposed(x: Tensor) -> Tensor:
    return x.T.clone(memory_format=torch.contiguous_format).T


def columns_cut(x: Tensor) -> Tensor:
    """Odd address, odd stride."""
    wide = torch.full((x.shape[0], x.shape[1] + 3), torch.nan, dtype=x.dtype)
    wide[:, 1:-2] = x
    return wide[:, 1:-2]


def every_other(x: Tensor) -> Tensor:
    wide = torch.full((2 * x.shape[0], 2 * x.shape[1]), torch.nan, dtype=x.dtype)
    wide[::2, 1::2] = x
    return wide[::2, 1::2]


SIZES = [
    (rows, columns)
    for rows in (1, 17, 63, 129, 301) for columns in (1, 17, 63, 129, 1301)
    if rows * columns < 100_000
]  # fmt: skip
"""Rows and columns around and beyond a tile of weights that are read once. Beside 1301 columns, two
tiles, 63 rows are 32 tiles already: more of them take the interpreter long and cross no edge."""

LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (contiguous, transposed, columns_cut, every_other)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(INTEGER[tensor.dtype])


def masks(width: int) -> dict[str, Tensor]:
    half = alternate(width, "cpu")
    return {
        "half": half,
        "none": half & False,
        "all": half | True,
        "view": alternate(2 * width, "cpu").repeat_interleave(3)[: 2 * width : 2],
    }
