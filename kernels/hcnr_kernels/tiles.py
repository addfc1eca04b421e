"""Which form is cheaper and how large a chunk may be: pure functions of shapes."""

import math
from collections.abc import Iterator
from typing import Literal

Axis = Literal["output", "input"]

TEMPORARY_BYTES = 64 * 2**20
"""What one operator may hold beyond its arguments and results, in bytes."""

TOKEN_TILE = 64
"""Rows of a token Gram formed at once. Tiles left of the diagonal count twice, tiles right of it
are never formed: at T = 128, widths 512 to 1376, one thread, 15 to 20 % faster than one square
product; 32 and 48 gain nothing more."""

GRAM_TILE = 256
"""Rows of `x^T x` formed at once by `gram_`: at width 2048, one thread, 1.7x faster than the full
product; 128 gains nothing more and 512 loses 8 %."""


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


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not smaller than `value`."""
    return -(-value // multiple) * multiple


def chunks(length: int, size: int) -> Iterator[slice]:
    """Slices that cover `range(length)` in pieces of `size`; none when `length` is zero."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def chunk_length(row_bytes: int, *, budget: int = TEMPORARY_BYTES) -> int:
    """How many rows of `row_bytes` fit in the budget; at least one."""
    return max(1, budget // max(1, row_bytes))
