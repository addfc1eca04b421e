"""The two forms of the Fisher scores: which of them is cheaper, and what may be asked of them."""

import math
from typing import Literal

import torch
from torch import Tensor

from hcnr_kernels.checks import ACCUMULATORS, Axis, beside, choice, describe, refuse, typed

Form = Literal["auto", "gram", "direct"]
FORMS = ("auto", "gram", "direct")


def gram_is_cheaper(
    tokens: float,
    in_features: int,
    out_features: int,
    *,
    axis: Axis = "output",
    shared: int = 1,
) -> bool:
    """Whether the Gram form of the Fisher score costs fewer operations: method.md (2).

    Output axis: `T (in / shared + out) < in out`; input axis: `T (in + out / shared) < in out`.

    Args:
        tokens: T, the tokens of one sample (a mean over samples need not be whole).
        in_features: Width of the input.
        out_features: Width of the output.
        axis: The neuron axis.
        shared: How many matrices share one Gram, that is, read the same input (output axis) or
            receive the same gradient (input axis).
    """
    width = _gram_width(in_features, out_features, axis, shared)
    return tokens * width < in_features * out_features


def gram_crossover(
    in_features: int, out_features: int, *, axis: Axis = "output", shared: int = 1
) -> int:
    """Tokens of the shortest sample for which `gram_is_cheaper` is false; arguments as there."""
    width = _gram_width(in_features, out_features, axis, shared)
    return math.ceil(in_features * out_features / width) if width else 0


def _gram_width(in_features: int, out_features: int, axis: Axis, shared: int) -> float:
    if axis == "output":
        return in_features / shared + out_features
    return in_features + out_features / shared


def check_form(
    own: Tensor, x: Tensor, form: str, token_gram: Tensor | None, max_seqlen: int | None
) -> None:
    """Refuse a form that is unknown, and a token Gram that does not fit it."""
    choice("form", form, FORMS)
    if max_seqlen is not None and max_seqlen < 0:
        refuse("max_seqlen", "None or >= 0", max_seqlen)
    if token_gram is None:
        return
    if form == "direct":
        refuse("form", "auto or gram when token_gram is given", repr(form))
    if token_gram.dim() == 3:
        _planes(own, x, token_gram)
        return
    typed("token_gram", token_gram, ACCUMULATORS)
    if token_gram.dim() != 2 or token_gram.shape[0] != x.shape[0]:
        refuse("token_gram", f"of shape ({x.shape[0]}, max_seqlen)", describe(token_gram))
    beside("token_gram", token_gram, x)


def _planes(own: Tensor, x: Tensor, token_gram: Tensor) -> None:
    typed("token_gram", token_gram, (torch.bfloat16,))
    if token_gram.shape[:2] != (2, x.shape[0]):
        refuse("token_gram", f"of shape (2, {x.shape[0]}, max_seqlen)", describe(token_gram))
    if own.dtype != torch.bfloat16:
        expected = f"from token_gram(...), not split, as the neurons' tensor is {own.dtype}"
        refuse("token_gram", expected, describe(token_gram))
    beside("token_gram", token_gram, x)
