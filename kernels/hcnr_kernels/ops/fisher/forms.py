"""The two forms of the Fisher scores, and which of them is cheaper: pure functions of shapes."""

import math
from typing import Literal

from hcnr_kernels.checks import Axis

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
