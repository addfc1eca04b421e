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
from hcnr_kernels.ops.spectral.block_diagonal import BlockDiagonal
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


SecondMoment = Tensor | Tokens | RankedGram | BlockDiagonal
"""`[d, d]` symmetric positive semi-definite, as a matrix, by its tokens, or by diagonal blocks."""


def width_of(moment: SecondMoment) -> int:
    """Neurons d of a second moment."""
    return moment.width if isinstance(moment, BlockDiagonal) else _held(moment).shape[-1]


def _held(moment: Tensor | Tokens | RankedGram) -> Tensor:
    return moment if isinstance(moment, Tensor) else moment[0]


def as_dtype(moment: SecondMoment, dtype: torch.dtype) -> SecondMoment:
    """The same in another dtype."""
    if isinstance(moment, Tokens):
        return Tokens(moment.rows.to(dtype))
    if isinstance(moment, RankedGram):
        return moment._replace(matrix=moment.matrix.to(dtype))
    if isinstance(moment, BlockDiagonal):
        return moment.map(lambda stack: stack.to(dtype))
    return moment.to(dtype)


def check_moment(argument: str, moment: object, width: int, like: Tensor) -> None:
    """Refuse what is no second moment of `width` neurons beside `like`."""
    if isinstance(moment, BlockDiagonal):
        _check_blocks(argument, moment, width, like)
        return
    square = not isinstance(moment, Tokens)
    if not isinstance(moment, Tensor | Tokens | RankedGram):
        refuse(argument, "a tensor, Tokens, RankedGram or BlockDiagonal", type(moment).__name__)
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


def _check_blocks(argument: str, moment: BlockDiagonal, width: int, like: Tensor) -> None:
    square = all(
        stack.dim() == 3 and stack.shape[1] == stack.shape[2] and stack.numel() > 0
        for stack in moment.stacks
    )
    kinds = {(stack.dtype, stack.device) for stack in moment.stacks}
    right = square and moment.width == width and len(kinds) == 1
    if not right or not moment.dtype.is_floating_point or moment.device != like.device:
        refuse(
            argument,
            f"floating-point blocks [m, b, b] of {width} neurons on {like.device}",
            f"{', '.join(str(kind) for kind in kinds)} of shapes {moment.shapes}",
        )


def raise_if_not_finite(moments: Sequence[SecondMoment], names: Sequence[str]) -> None:
    """Name the first second moment that holds NaN or infinity, as a `FactorizationError`."""
    finite = torch.stack([_is_finite(moment) for moment in moments])
    status = torch.where(finite, 0, NON_FINITE)
    raise_on_failure(status, torch.zeros_like(status), names)


def _is_finite(moment: SecondMoment) -> Tensor:
    stacks = moment.stacks if isinstance(moment, BlockDiagonal) else (_held(moment)[None],)
    return torch.stack([all_finite(stack).all() for stack in stacks]).all()


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
        if isinstance(moment, Tensor | BlockDiagonal):
            return False
        searched |= isinstance(moment, RankedGram)
        tokens += len(moment.rows) if isinstance(moment, Tokens) else moment.rank
    return token_flops(width, tokens, searched=searched) < dense_flops(width)


def modes_of(
    honesty: SecondMoment,
    task: SecondMoment,
    damping: float,
    names: Sequence[str],
    block_size: int | None = None,
) -> Modes:
    """`Modes` of one axis by the cheaper route.

    Without damping nothing can be left out, so the route is the dense one; so it is where a
    `RankedGram` turns out to have a higher rank.

    Args:
        honesty: Second moment on the honesty data, finite, of the dtype to compute in.
        task: On the task data.
        damping: Share of the mean diagonal, the first level of the ladder.
        names: Of the two, for errors.
        block_size: Keep diagonal blocks of this many neurons alone; None keeps all.

    Raises:
        OperatorError: One is given in other blocks than the other, or than are asked for.
        FactorizationError: A matrix stays indefinite.
    """
    all_neurons = block_size is None or block_size >= width_of(honesty)
    if all_neurons and damping > 0 and tokens_are_cheaper(honesty, task):
        modes = _modes_in_span(honesty, task, damping, names)
        if modes is not None:
            return modes
    honesty_gram, task_gram = (_gram(moment, block_size) for moment in (honesty, task))
    if honesty_gram.shapes != task_gram.shapes:
        refuse(names[1], f"the blocks of {names[0]}, {honesty_gram.shapes}", task_gram.shapes)
    return solve_pencil(honesty_gram, task_gram, damping, names)


def _gram(moment: SecondMoment, block_size: int | None = None) -> BlockDiagonal:
    """`M / |mean(diag M)|`: what is dead altogether stays zero, what is indefinite stays so."""
    if isinstance(moment, Tokens):
        rows = _unit_rows(moment.rows)
        return BlockDiagonal.zeros(rows.shape[1], block_size, rows).add_gram_(rows)
    if isinstance(moment, BlockDiagonal):
        blocks = moment
    else:
        blocks = BlockDiagonal.cut(_held(moment), block_size)
    mean = blocks.diagonal().mean().abs()
    return blocks.map(lambda stack: stack / torch.where(mean == 0, 1, mean))


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
        modes = _pencil_of(parts[0] @ parts[0].T, parts[1] @ parts[1].T, damping, names)
        return modes._replace(span=span, width=len(span))
    pair, rank = [], 0
    for moment in (honesty, task):
        assert not isinstance(moment, BlockDiagonal)
        if isinstance(moment, RankedGram):
            pair.append(Symmetric(_gram(moment).dense(), squared=False))
            rank += moment.rank
        else:
            pair.append(Symmetric(_unit_rows(_held(moment)), squared=True))
            rank += len(_held(moment))
    common = find_span(pair[0], pair[1], rank, damping)
    if common is None:
        return None
    modes = _pencil_of(*common.inside, damping, names)
    return modes._replace(span=common.span, width=len(common.span))


def _pencil_of(honesty: Tensor, task: Tensor, damping: float, names: Sequence[str]) -> Modes:
    pair = (BlockDiagonal.cut(one) for one in (honesty, task))
    return solve_pencil(*pair, damping=damping, names=names)
