"""Fisher scores on a GPU, method.md (1) and (2): which form runs for which samples.

The Triton kernels are in `gram_form` and `direct_form`. Every accumulator is fp32, no input is
rounded, and the host never reads a length unless it has to know the longest one.

Offsets that do not hold (as in `lengths.sample_bounds`) make the result NaN; nothing out of bounds
is read.
"""

import torch
from torch import Tensor

from hcnr_kernels.checks import Axis
from hcnr_kernels.chunks import round_up
from hcnr_kernels.ops.fisher import direct_form, gram_form, token_grams
from hcnr_kernels.ops.fisher.forms import gram_crossover
from hcnr_kernels.ops.fisher.lengths import longest, sample_bounds
from hcnr_kernels.triton.items import Spans, spans_of


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
    _fisher_axis_(
        scores, x, g, spans_of(cu_seqlens, seqused), form, token_gram, max_seqlen, axis="output"
    )


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
    _fisher_axis_(
        scores, x, g, spans_of(cu_seqlens, seqused), form, token_gram, max_seqlen, axis="input"
    )


def _fisher_axis_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    spans: Spans,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
    *,
    axis: Axis,
) -> None:
    """Gram form for samples shorter than the crossover, direct form for the others."""
    own, other = (g, x) if axis == "output" else (x, g)
    rows = max(own.shape[0], 1)
    if token_gram is not None:
        gram_form.add_quadratic_(scores, token_gram, own, spans, most=rows)
        return
    if form == "auto":
        crossover = gram_crossover(x.shape[1], g.shape[1])
    else:
        crossover = rows + 1 if form == "gram" else 0
    if max_seqlen is None:
        max_seqlen = rows
        if crossover > 0:
            bounds = sample_bounds(spans.cu_seqlens, own.shape[0], spans.seqused)
            max_seqlen = longest(bounds)
    if crossover > 0:
        # Where the direct form does not run, a sample longer than promised must not be left out.
        most = crossover - 1 if max_seqlen >= crossover else rows
        # Rows of whole vectors, whatever the longest sample is.
        room = round_up(min(max_seqlen, crossover - 1), 16)
        if own.dtype == torch.bfloat16:
            gram = token_grams.split_token_gram(other, spans, room, most=most, clear=False)
        else:
            gram = token_grams.token_gram(other, spans, room, most=most)
        gram_form.add_quadratic_(scores, gram, own, spans, most=most)
    if max_seqlen >= crossover:
        output_scores, input_scores = (scores, None) if axis == "output" else (None, scores)
        direct_form.add_direct_(output_scores, input_scores, None, x, g, spans, least=crossover)


def fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
) -> None:
    """Method.md (1) for both axes from one pass of the direct form."""
    direct_form.add_direct_(output_scores, input_scores, None, x, g, spans_of(cu_seqlens, seqused))


def fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None
) -> None:
    """Summands of method.md (1): `scores[o, i] += sum_b (G_b[o, i])^2`."""
    direct_form.add_direct_(None, None, scores, x, g, spans_of(cu_seqlens, seqused))


def token_gram(x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, max_seqlen: int) -> Tensor:
    """`X_b X_b^T` of every sample, `[n, max_seqlen]`: token t's row, zero behind its sample."""
    spans = spans_of(cu_seqlens, seqused)
    return token_grams.token_gram(x, spans, max_seqlen, most=max(x.shape[0], 1))


def split_token_gram(
    x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, max_seqlen: int
) -> Tensor:
    """The lower triangle of `X_b X_b^T`, doubled below the diagonal: the sum of `[2, n, L]`."""
    spans = spans_of(cu_seqlens, seqused)
    return token_grams.split_token_gram(x, spans, max_seqlen, most=max(x.shape[0], 1))
