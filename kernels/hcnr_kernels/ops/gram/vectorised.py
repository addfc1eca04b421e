"""Vectorised torch code of the second moments, tile by tile."""

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks

GRAM_TILE = 256
"""Rows of `x^T x` formed at once by `gram_`: at width 2048, one thread, 1.7x faster than the full
product; 128 gains nothing more and 512 loses 8 %."""


def gram_(gram: Tensor, x: Tensor) -> None:
    """Method.md (5) without the 1/n: `gram += x^T x`, on and left of the diagonal tiles only."""
    tokens, width = x.shape
    token_step = max(1, tokens) if x.dtype == torch.float32 else chunk_length(4 * width)
    for chunk in chunks(tokens, token_step):
        part = x[chunk].float()
        for rows in chunks(width, GRAM_TILE):
            gram[rows, : rows.stop].addmm_(part[:, rows].T, part[:, : rows.stop])


def symmetrize_(gram: Tensor) -> None:
    """Copy the lower triangle of `gram [d, d]` onto the upper one, tile by tile."""
    for rows in chunks(gram.shape[0], GRAM_TILE):
        gram[: rows.start, rows] = gram[rows, : rows.start].T
        diagonal = gram[rows, rows]
        diagonal.copy_(diagonal.tril() + diagonal.tril(-1).T)
