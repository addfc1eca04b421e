"""Fisher scores of neurons and of weights: method.md (1) and (2).

Token tensors are packed: `x [n, in]`, `g [n, out]`; sample b owns the rows
`cu_seqlens[b]:cu_seqlens[b + 1]` (int32, on the same device). Scores are fp32 and updated in place.
"""

import torch
from torch import Tensor

from hcnr_kernels.checks import (
    ACCUMULATORS,
    beside,
    describe,
    floating,
    refuse,
    shaped,
    typed,
)
from hcnr_kernels.library import operator
from hcnr_kernels.ops.fisher import vectorised
from hcnr_kernels.ops.fisher.forms import Form, check_form
from hcnr_kernels.ops.fisher.lengths import check_offsets

_TRITON = f"{__name__}.triton"
_TOKENS = "Tensor x, Tensor g, Tensor cu_seqlens, Tensor? seqused"
_FORM = "str form, Tensor? token_gram, int? max_seqlen"


def _packed(x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None) -> None:
    floating("x", x, 2, "[tokens, in]")
    floating("g", g, 2, "[tokens, out]")
    if x.shape[0] != g.shape[0]:
        refuse("g", f"of the {x.shape[0]} tokens of x", describe(g))
    beside("g", g, x)
    check_offsets(cu_seqlens, seqused, x)


def _scores(argument: str, scores: Tensor, own: Tensor) -> None:
    typed(argument, scores, ACCUMULATORS)
    shaped(argument, scores, own.shape[-1:])
    beside(argument, scores, own)


def _check_fisher_output_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> None:
    """Arguments of `fisher_output_`."""
    _packed(x, g, cu_seqlens, seqused)
    _scores("scores", scores, g)
    check_form(g, x, form, token_gram, max_seqlen)


_fisher_output_ = operator(
    f"fisher_output_(Tensor(a!) scores, {_TOKENS}, {_FORM}) -> ()",
    check=_check_fisher_output_,
    kernel=vectorised.fisher_output_,
    triton=_TRITON,
)


@torch.no_grad()
def fisher_output_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
    form: Form = "auto",
    token_gram: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Add the Fisher scores of a matrix's rows: method.md (1), output axis, not divided by N.

    `scores[k] += sum_b sum_i (G_b[k, i])^2` with `G_b = g_b^T x_b`, by the direct form or the Gram
    form (2), whichever costs fewer operations for each sample.

    On a GPU the host reads no length unless `max_seqlen` and `token_gram` are both missing and the
    Gram form is needed (one synchronisation); the values of the offsets are then checked on the
    device, and scores of offsets that do not hold are NaN. The result is the same, bit for bit, on
    every run.

    Args:
        scores: `[out]` fp32, updated.
        x: `[n, in]` packed inputs.
        g: `[n, out]` packed output gradients.
        cu_seqlens: `[B + 1]` int32.
        seqused: `[B]` int32, how many of its rows sample b uses, from the first; the others are
            padding and are not read. None uses all of them.
        form: `auto`, `gram` or `direct`.
        token_gram: `[n, L]` fp32, `X_b X_b^T` from `token_gram(x, ...)`, shared by the matrices
            that read x; beside g in bf16 also `[2, n, L]` bf16 from `split_token_gram(x, ...)`,
            which a GPU reads faster. Giving it implies the Gram form, and x is then not read.
        max_seqlen: At least the tokens of the longest sample.

    Returns:
        `scores`.
    """
    _fisher_output_(scores, x, g, cu_seqlens, seqused, form, token_gram, max_seqlen)
    return scores


def _check_fisher_input_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> None:
    """Arguments of `fisher_input_`."""
    _packed(x, g, cu_seqlens, seqused)
    _scores("scores", scores, x)
    check_form(x, x, form, token_gram, max_seqlen)


_fisher_input_ = operator(
    f"fisher_input_(Tensor(a!) scores, {_TOKENS}, {_FORM}) -> ()",
    check=_check_fisher_input_,
    kernel=vectorised.fisher_input_,
    triton=_TRITON,
)


@torch.no_grad()
def fisher_input_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
    form: Form = "auto",
    token_gram: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Add the Fisher scores of a matrix's columns: method.md (1), input axis, not divided by N.

    Arguments as in `fisher_output_`, but `scores [in]` and `token_gram` is that of the gradients,
    `token_gram(g, ...)`, or `split_token_gram(g, ...)` beside x in bf16.
    """
    _fisher_input_(scores, x, g, cu_seqlens, seqused, form, token_gram, max_seqlen)
    return scores


def _check_fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
) -> None:
    """Arguments of `fisher_both_`."""
    _packed(x, g, cu_seqlens, seqused)
    _scores("output_scores", output_scores, g)
    _scores("input_scores", input_scores, x)


_fisher_both_ = operator(
    f"fisher_both_(Tensor(a!) output_scores, Tensor(b!) input_scores, {_TOKENS}) -> ()",
    check=_check_fisher_both_,
    kernel=vectorised.fisher_both_,
    triton=_TRITON,
)


@torch.no_grad()
def fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the Fisher scores of rows and columns in one pass of the direct form: method.md (1).

    `output_scores [out]` and `input_scores [in]`, fp32, are updated and returned; the other
    arguments as in `fisher_output_`.
    """
    _fisher_both_(output_scores, input_scores, x, g, cu_seqlens, seqused)
    return output_scores, input_scores


def _check_fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None
) -> None:
    """Arguments of `fisher_weight_`."""
    _packed(x, g, cu_seqlens, seqused)
    typed("scores", scores, ACCUMULATORS)
    shaped("scores", scores, (g.shape[1], x.shape[1]))
    beside("scores", scores, x)


_fisher_weight_ = operator(
    f"fisher_weight_(Tensor(a!) scores, {_TOKENS}) -> ()",
    check=_check_fisher_weight_,
    kernel=vectorised.fisher_weight_,
    triton=_TRITON,
)


@torch.no_grad()
def fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, *, seqused: Tensor | None = None
) -> Tensor:
    """Add the Fisher diagonal: `scores[o, i] += sum_b (G_b[o, i])^2`, not divided by N.

    `scores [out, in]` fp32 is updated, in one read and write per call, and returned; the other
    arguments as in `fisher_output_`.
    """
    _fisher_weight_(scores, x, g, cu_seqlens, seqused)
    return scores


def _check_token_gram(
    x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, max_seqlen: int
) -> None:
    """Arguments of `token_gram`."""
    floating("x", x, 2, "[tokens, width]")
    check_offsets(cu_seqlens, seqused, x)
    if max_seqlen < 0:
        refuse("max_seqlen", ">= 0", max_seqlen)


_token_gram = operator(
    "token_gram(Tensor x, Tensor cu_seqlens, Tensor? seqused, int max_seqlen) -> Tensor",
    check=_check_token_gram,
    kernel=vectorised.token_gram,
    fake=lambda x, cu_seqlens, seqused, max_seqlen: vectorised.empty_token_gram(x, max_seqlen),
    triton=_TRITON,
)


@torch.no_grad()
def token_gram(
    x: Tensor, cu_seqlens: Tensor, *, max_seqlen: int, seqused: Tensor | None = None
) -> Tensor:
    """`X_b X_b^T` of every sample, the factor of method.md (2) that matrices share.

    Args:
        x: `[n, d]` packed inputs or output gradients.
        cu_seqlens: `[B + 1]` int32.
        max_seqlen: L, at least the longest sample.
        seqused: `[B]` int32, as in `fisher_output_`.

    Returns:
        `[n, L]` fp32: the row of a token holds its products with the tokens of its sample, then
        zeros.
    """
    return _token_gram(x, cu_seqlens, seqused, max_seqlen)


_split_token_gram = operator(
    "split_token_gram(Tensor x, Tensor cu_seqlens, Tensor? seqused, int max_seqlen) -> Tensor",
    check=_check_token_gram,
    kernel=vectorised.split_token_gram,
    fake=lambda x, cu_seqlens, seqused, max_seqlen: vectorised.empty_planes(x, max_seqlen),
    triton=_TRITON,
)


@torch.no_grad()
def split_token_gram(
    x: Tensor, cu_seqlens: Tensor, *, max_seqlen: int, seqused: Tensor | None = None
) -> Tensor:
    """`token_gram` as a GPU multiplies it by bf16: its lower triangle, the sum of two bf16 planes.

    Below the diagonal it holds twice `X_b X_b^T`, and nothing above: that is symmetric, so
    method.md (2) comes to the same. The sum keeps 16 bits of every entry.

    Args:
        x: `[n, d]` packed inputs or output gradients.
        cu_seqlens: `[B + 1]` int32.
        max_seqlen: L, at least the longest sample.
        seqused: `[B]` int32, as in `fisher_output_`.

    Returns:
        `[2, n, L]` bf16: the row of a token holds its products with the tokens of its sample that
        are not behind it, then zeros.
    """
    return _split_token_gram(x, cu_seqlens, seqused, max_seqlen)
