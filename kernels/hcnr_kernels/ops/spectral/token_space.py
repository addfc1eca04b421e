"""`Modes` from few tokens: all work in the span of the tokens, none of it `d^3`.

n tokens span at most n directions. Outside the span of both data sets each second moment is zero,
its damped form `lambda I`, and any orthonormal basis solves the eigenproblem there with `a = 1`.
Inside, the two matrices are `[n, n]`.

With the tokens at hand, a QR factorisation gives an orthonormal basis and both matrices in it,
without forming `x^T x` first, whose rounding would square the condition: nothing is approximated.
For Grams of few tokens `span` finds such a basis and verifies it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.checks import refuse
from hcnr_kernels.ops.inverse.blocks import all_finite
from hcnr_kernels.ops.inverse.ladder import NON_FINITE, raise_on_failure
from hcnr_kernels.ops.spectral.modes import Modes, solve_pencil
from hcnr_kernels.ops.spectral.span import Symmetric, find_span

PENCIL_FLOPS = 14.0
"""Times k^3: two checks and one factor, two divisions, the eigenproblem, directions and duals."""


class Tokens(NamedTuple):
    """A second moment `rows^T rows / n` by its tokens.

    Attributes:
        rows: `[n, d]` floating point, inputs or output gradients, n >= 1.
    """

    rows: Tensor


class RankedGram(NamedTuple):
    """A second moment that was summed over few tokens.

    Attributes:
        matrix: `[d, d]` symmetric.
        rank: At most so many tokens; tried and then verified, never trusted.
    """

    matrix: Tensor
    rank: int


SecondMoment = Tensor | Tokens | RankedGram
"""`[d, d]` symmetric positive semi-definite, as a matrix or by its tokens."""


def width_of(moment: SecondMoment) -> int:
    """Neurons d of a second moment."""
    return _held(moment).shape[-1]


def _held(moment: SecondMoment) -> Tensor:
    return moment if isinstance(moment, Tensor) else moment[0]


def as_dtype(moment: SecondMoment, dtype: torch.dtype) -> SecondMoment:
    """The same in another dtype."""
    if isinstance(moment, Tokens):
        return Tokens(moment.rows.to(dtype))
    if isinstance(moment, RankedGram):
        return moment._replace(matrix=moment.matrix.to(dtype))
    return moment.to(dtype)


def check_moment(argument: str, moment: object, width: int, like: Tensor) -> None:
    """Refuse what is no second moment of `width` neurons beside `like`."""
    square = not isinstance(moment, Tokens)
    if not isinstance(moment, Tensor | Tokens | RankedGram):
        refuse(argument, "a tensor, Tokens or RankedGram", type(moment).__name__)
    held = _held(moment)
    if (
        held.dim() != 2
        or held.shape[1] != width
        or held.shape[0] == 0
        or (square and held.shape[0] != width)
        or not held.dtype.is_floating_point
        or held.device != like.device
    ):
        refuse(
            argument,
            f"floating-point {'' if square else 'tokens '}of shape "
            f"({width if square else 'n >= 1'}, {width}) on {like.device}",
            f"{held.dtype} of shape {tuple(held.shape)} on {held.device}",
        )
    if isinstance(moment, RankedGram) and moment.rank < 1:
        refuse(f"{argument}.rank", ">= 1", moment.rank)


def raise_if_not_finite(moments: Sequence[SecondMoment], names: Sequence[str]) -> None:
    """Name the first second moment that holds NaN or infinity, as a `FactorizationError`."""
    finite = torch.cat([all_finite(_held(moment)[None]) for moment in moments])
    status = torch.where(finite, 0, NON_FINITE)
    raise_on_failure(status, torch.zeros_like(status), names)


def dense_flops(width: int) -> float:
    """Operations of the pencil of two matrices `[d, d]`."""
    return PENCIL_FLOPS * width**3


def token_flops(width: int, tokens: int, *, searched: bool = False) -> float:
    """Operations of the pencil in the span of n tokens.

    `4 d n^2` for a QR factorisation with its basis and the pencil of `[n, n]`; where the span is
    searched for, a second factorisation and four products of `2 d^2 n`.

    Args:
        width: d.
        tokens: n, of both data sets.
        searched: Whether a second moment is a Gram.
    """
    search = (4.0 * tokens + 8.0 * width) * width * tokens if searched else 0.0
    return 4.0 * width * tokens**2 + PENCIL_FLOPS * tokens**3 + search


def tokens_are_cheaper(honesty: SecondMoment, task: SecondMoment) -> bool:
    """Whether the span of the tokens costs fewer operations than the whole space.

    It does while both have, together, fewer tokens than `0.91 d`, or `0.69 d` with a Gram.
    """
    width, tokens, searched = width_of(honesty), 0, False
    for moment in (honesty, task):
        if isinstance(moment, Tensor):
            return False
        searched |= isinstance(moment, RankedGram)
        tokens += len(moment.rows) if isinstance(moment, Tokens) else moment.rank
    return token_flops(width, tokens, searched=searched) < dense_flops(width)


def modes_of(
    honesty: SecondMoment, task: SecondMoment, damping: float, names: Sequence[str]
) -> Modes:
    """`Modes` of one axis by the cheaper route.

    Without damping nothing can be left out, so the route is the dense one; so it is where a
    `RankedGram` turns out to have a higher rank.

    Args:
        honesty: Second moment on the honesty data, finite, of the dtype to compute in.
        task: On the task data.
        damping: Share of the mean diagonal, the first level of the ladder.
        names: Of the two, for errors.

    Raises:
        FactorizationError: A matrix stays indefinite.
    """
    if damping > 0 and tokens_are_cheaper(honesty, task):
        found = _modes_in_span(honesty, task, damping, names)
        if found is not None:
            return found
    return solve_pencil(_gram(honesty), _gram(task), damping, names)


def _gram(moment: SecondMoment) -> Tensor:
    """`M / |mean(diag M)|`: what is dead altogether stays zero, what is indefinite stays so."""
    if isinstance(moment, Tokens):
        rows = _unit_rows(moment.rows)
        return rows.T @ rows
    matrix = _held(moment)
    mean = matrix.diagonal().mean().abs()
    return matrix / torch.where(mean == 0, 1, mean)


def _unit_rows(rows: Tensor) -> Tensor:
    """`rows [n, d]` scaled so that the mean diagonal of `rows^T rows` is one; zeros stay zeros."""
    norm = float(torch.linalg.vector_norm(rows, dtype=torch.float64))
    return rows / (norm / math.sqrt(rows.shape[1])) if norm else rows


def _modes_in_span(
    honesty: SecondMoment, task: SecondMoment, damping: float, names: Sequence[str]
) -> Modes | None:
    """`Modes` in the span of both; None where a Gram reaches beyond the rank it claims."""
    if isinstance(honesty, Tokens) and isinstance(task, Tokens):
        first, second = _unit_rows(honesty.rows), _unit_rows(task.rows)
        span, corner = torch.linalg.qr(torch.cat([first, second]).T)
        parts = corner[:, : len(first)], corner[:, len(first) :]
        modes = solve_pencil(*(part @ part.T for part in parts), damping=damping, names=names)
        return modes._replace(span=span, width=len(span))
    pair, rank = [], 0
    for moment in (honesty, task):
        if isinstance(moment, RankedGram):
            pair.append(Symmetric(_gram(moment), squared=False))
            rank += moment.rank
        else:
            pair.append(Symmetric(_unit_rows(_held(moment)), squared=True))
            rank += len(_held(moment))
    found = find_span(pair[0], pair[1], rank, damping)
    if found is None:
        return None
    modes = solve_pencil(*found.inside, damping=damping, names=names)
    return modes._replace(span=found.span, width=len(found.span))
