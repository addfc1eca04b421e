"""Vectorised torch code of the Fisher scores: bounded memory, any device.

Temporaries stay under `chunks.TEMPORARY_BYTES` each. The one exception is named where it occurs:
the Gram form holds one sample's `[T, T]` Gram.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks, round_up
from hcnr_kernels.ops.fisher.forms import gram_is_cheaper
from hcnr_kernels.ops.fisher.lengths import at_least_longest, sample_bounds
from hcnr_kernels.ops.gram.vectorised import symmetrize_

TOKEN_TILE = 64
"""Rows of a token Gram formed at once. Tiles left of the diagonal count twice, tiles right of it
are never formed: at T = 128, widths 512 to 1376, one thread, 15 to 20 % faster than one square
product; 32 and 48 gain nothing more."""


def fisher_output_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> None:
    """Method.md (1) and (2), output axis: `scores[k] += sum_b sum_i (G_b[k, i])^2`."""
    bounds = _bounds(g, cu_seqlens, seqused, token_gram, max_seqlen)
    _fisher_axis_(scores, g, x, bounds, form, token_gram)


def fisher_input_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> None:
    """Method.md (1) and (2), input axis: `scores[k] += sum_b sum_o (G_b[o, k])^2`."""
    bounds = _bounds(x, cu_seqlens, seqused, token_gram, max_seqlen)
    _fisher_axis_(scores, x, g, bounds, form, token_gram)


Bounds = list[tuple[int, int]]


def _bounds(
    own: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> Bounds:
    bounds = sample_bounds(cu_seqlens, own.shape[0], seqused)
    if token_gram is not None:
        at_least_longest(bounds, token_gram.shape[-1], "token_gram.shape[-1]")
    if max_seqlen is not None:
        at_least_longest(bounds, max_seqlen, "max_seqlen")
    return bounds


def _fisher_axis_(
    scores: Tensor,
    own: Tensor,
    other: Tensor,
    bounds: Bounds,
    form: str,
    token_gram: Tensor | None,
) -> None:
    """Both axes at once: `own [n, d']` lies on the neuron axis, `other` on the one summed over.

    `G_b` of one axis is the transpose of `G_b` of the other, so exchanging the operands is all.
    A loop over samples beats padding and a batched product: a sample's Gram stays in the cache
    (32 samples x 128 tokens, width 512, one thread: 9.8 ms against 11.9 ms for `bmm`).
    """
    for start, stop in bounds:
        tokens = stop - start
        if tokens == 0:
            continue
        mine, theirs = own[start:stop], other[start:stop]
        if token_gram is not None and token_gram.dim() == 3:
            triangle = token_gram[:, start:stop, :tokens].sum(0, dtype=torch.float32)
            _add_quadratic_(scores, triangle, mine, twice=1)
        elif token_gram is not None:
            _add_quadratic_(scores, token_gram[start:stop, :tokens], mine)
        elif form == "gram" or (
            form == "auto" and gram_is_cheaper(tokens, theirs.shape[1], mine.shape[1])
        ):
            _add_quadratic_(scores, _lower_token_gram(theirs), mine)
        else:
            for rows, gradient in _gradient_tiles(mine, theirs):
                scores[rows].add_(gradient.square_().sum(1))


def _lower_token_gram(x: Tensor) -> Tensor:
    """`x x^T [T, T]` in fp32; right of the diagonal tiles it is unspecified."""
    tokens, width = x.shape
    gram = torch.empty((tokens, tokens), dtype=torch.float32, device=x.device)
    if width == 0:
        return gram.zero_()
    for columns in _fp32_columns(x):
        part = x[:, columns].float()
        for rows in chunks(tokens, TOKEN_TILE):
            gram[rows, : rows.stop].addmm_(
                part[rows], part[: rows.stop].T, beta=0 if columns.start == 0 else 1
            )
    return gram


def _add_quadratic_(scores: Tensor, gram: Tensor, own: Tensor, *, twice: int = 2) -> None:
    """Method.md (2): `scores[k] += own[:, k]^T gram own[:, k]`, clamped at zero.

    The form is a square, so a negative value is rounding. Only the tiles on and left of the
    diagonal are read; those left of it count `twice`.
    """
    for columns in _fp32_columns(own):
        part = own[:, columns].float()
        total = torch.zeros(part.shape[1], dtype=torch.float32, device=own.device)
        for rows in chunks(own.shape[0], TOKEN_TILE):
            product = gram[rows, rows] @ part[rows]
            if rows.start:
                product.addmm_(gram[rows, : rows.start], part[: rows.start], alpha=twice)
            total.add_(product.mul_(part[rows]).sum(0))
        scores[columns].add_(total.clamp_(min=0))


def _fp32_columns(x: Tensor) -> Iterator[slice]:
    """Column slices of `x [T, d]` whose fp32 copy fits in the budget; one when none is needed."""
    whole = x.dtype == torch.float32
    return chunks(x.shape[1], max(1, x.shape[1]) if whole else chunk_length(4 * x.shape[0]))


def _gradient_tiles(own: Tensor, other: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of one sample's `own^T other [d', d]` in fp32 as (rows, tile); tiles may be spoilt."""
    tokens, width = other.shape
    if own.dtype == other.dtype == torch.float32:
        token_step = max(1, tokens)
    else:
        token_step = chunk_length(4 * width)
    for rows in chunks(own.shape[1], chunk_length(4 * width)):
        tile = torch.zeros((rows.stop - rows.start, width), dtype=torch.float32, device=own.device)
        for chunk in chunks(tokens, token_step):
            tile.addmm_(own[chunk, rows].float().T, other[chunk].float())
        yield rows, tile


def fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
) -> None:
    """Method.md (1) for both axes, each tile of `G_b` formed once."""
    for start, stop in sample_bounds(cu_seqlens, x.shape[0], seqused):
        for rows, gradient in _gradient_tiles(g[start:stop], x[start:stop]):
            squares = gradient.square_()
            output_scores[rows].add_(squares.sum(1))
            input_scores.add_(squares.sum(0))


def fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None
) -> None:
    """Summands of method.md (1): `scores[o, i] += sum_b (G_b[o, i])^2`."""
    for start, stop in sample_bounds(cu_seqlens, x.shape[0], seqused):
        for rows, gradient in _gradient_tiles(g[start:stop], x[start:stop]):
            scores[rows].addcmul_(gradient, gradient)


def empty_token_gram(x: Tensor, max_seqlen: int) -> Tensor:
    """Storage of `token_gram(x, ...)`, `[n, max_seqlen]` fp32.

    Its rows start at multiples of 64 bytes, so that they can be read in vectors.
    """
    room = round_up(max_seqlen, 16)
    return x.new_empty((x.shape[0], room), dtype=torch.float32)[:, :max_seqlen]


def empty_planes(x: Tensor, max_seqlen: int) -> Tensor:
    """Storage of `split_token_gram(x, ...)`, `[2, n, max_seqlen]` bf16, its rows as above."""
    room = round_up(max_seqlen, 32)
    return x.new_empty((2, x.shape[0], room), dtype=torch.bfloat16)[..., :max_seqlen]


def token_gram(x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, max_seqlen: int) -> Tensor:
    """`X_b X_b^T`, the shared factor of method.md (2), one row per token: `[n, max_seqlen]`."""
    bounds = sample_bounds(cu_seqlens, x.shape[0], seqused)
    at_least_longest(bounds, max_seqlen, "max_seqlen")
    grams = empty_token_gram(x, max_seqlen).zero_()
    for start, stop in bounds:
        if stop > start:
            block = grams[start:stop, : stop - start]
            block.copy_(_lower_token_gram(x[start:stop]))
            symmetrize_(block)
    return grams


def split_token_gram(
    x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, max_seqlen: int
) -> Tensor:
    """The lower triangle of `X_b X_b^T`, doubled below the diagonal: the sum of `[2, n, L]`."""
    bounds = sample_bounds(cu_seqlens, x.shape[0], seqused)
    at_least_longest(bounds, max_seqlen, "max_seqlen")
    planes = empty_planes(x, max_seqlen).zero_()
    for start, stop in bounds:
        if stop > start:
            gram = _lower_token_gram(x[start:stop])
            triangle = gram.tril() + gram.tril(-1)
            high = triangle.bfloat16()
            planes[0, start:stop, : stop - start] = high
            planes[1, start:stop, : stop - start] = (triangle - high.float()).bfloat16()
    return planes
