"""Directions of one axis in which two curvatures are diagonal at once: method.md (10).

With `B = M / mean(diag M) + lambda I` for the honesty and the task data, whitening uses the sum
`C = B_h + B_t = L L^T`, not `B_h` alone. The eigenvalues `t` of `L^-1 B_t L^-T` lie between 0 and
1, those of `B_h` are `h = 1 - t`, and (10) has `a = t / h`. The pencil is the same, but `a` spans
ten decades, of which fp32 keeps seven: whitened by `B_h`, the error of E was 13 % where by the sum
it is 1e-4 (curvature with eigenvalues that fall as 1 / i^2, 512 neurons, damping 0.01).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.errors import FactorizationError
from hcnr_kernels.ops.inverse.blocks import all_finite
from hcnr_kernels.ops.inverse.condition import condition_bound, one_norms
from hcnr_kernels.ops.inverse.factor import cholesky_
from hcnr_kernels.ops.inverse.ladder import climb, failing_order, raise_on_failure
from hcnr_kernels.ops.inverse.tiling import tiling_for
from hcnr_kernels.ops.inverse.vectorised import recursion_is_faster
from hcnr_kernels.ops.spectral.block_diagonal import BlockDiagonal

SMALLEST_SHARE = 1e-18
"""Floor of the honesty share h without damping: its square is a normal fp32 number."""


class Modes(NamedTuple):
    """Directions of one axis of d neurons, k of them explicit, scaled so that `v^T C v = 1`.

    Attributes:
        vectors: `[k, k]`, columns v; in the coordinates of `span` where there is one.
        dual: `[k, k]`, `C vectors`, so that `vectors dual^T = I`; both in the same blocks.
        honesty: `[k]` share `h = v^T B_h v`.
        task: `[k]` share `t = v^T B_t v = 1 - h`.
        span: `[d, k]` orthonormal columns outside which both curvatures are `damping * I`, so that
            `h = t = 1/2` there; None when `k = d`.
        width: d.
        damping: Share of the mean diagonal that was added to both matrices.
        condition: Of the matrix that was factorised, in the 1-norm: Hager's lower bound.
    """

    vectors: BlockDiagonal
    dual: BlockDiagonal
    honesty: Tensor
    task: Tensor
    span: Tensor | None
    width: int
    damping: float
    condition: float

    @property
    def explicit(self) -> Tensor:
        """The explicit directions as columns `[d, k]`."""
        return self.vectors.dense() if self.span is None else self.span @ self.vectors.dense()

    @property
    def shares(self) -> tuple[Tensor, Tensor, Tensor]:
        """`h`, `t` and how many directions have them; the last entry is what `span` leaves out."""
        count = torch.ones_like(self.honesty)
        if self.span is None:
            return self.honesty, self.task, count
        half = self.honesty.new_full((1,), 0.5)
        left_out = half.new_full((1,), self.width - len(count))
        return (
            torch.cat([self.honesty, half]),
            torch.cat([self.task, half]),
            torch.cat([count, left_out]),
        )

    @property
    def route(self) -> str:
        """`dense`, `blocks`, or `tokens` where directions are left out."""
        if self.span is not None:
            return "tokens"
        return "dense" if self.vectors.block_size == self.width else "blocks"

    @property
    def outside(self) -> float:
        """`v v^T` summed over the directions left out is this times their projector."""
        return 0.0 if self.span is None else 0.5 / self.damping

    def analyse(self, matrix: Tensor, factor: BlockDiagonal) -> tuple[Tensor, Tensor | None]:
        """Coordinates of the columns of `matrix [d, c]`, and what `span` leaves out of them.

        Args:
            matrix: Columns.
            factor: `dual`, for the coordinates of `vectors`, or `vectors`.

        Returns:
            `[k, c]`, and `[d, c]` or None when nothing is left out.
        """
        if self.span is None:
            return factor.transposed_times(matrix), None
        inside = self.span.T @ matrix
        return factor.transposed_times(inside), torch.addmm(matrix, self.span, inside, alpha=-1)

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The explicit directions times `coordinates [k, c]`: `[d, c]`."""
        inside = self.vectors.times(coordinates)
        return inside if self.span is None else self.span @ inside


def solve_pencil(
    honesty: BlockDiagonal, task: BlockDiagonal, damping: float, names: Sequence[str]
) -> Modes:
    """`Modes` of two matrices `[d, d]`: Cholesky factors and symmetric eigenproblems by block.

    Both get the same damping, the first level of the ladder at which all blocks of both are
    positive definite. A dead neuron of the honesty data, one with a zero diagonal, is lifted by the
    damping like any other and gets a unit pivot only without it.

    Args:
        honesty: Second moment on the honesty data, divided by its mean diagonal.
        task: On the task data, likewise, in the same blocks.
        damping: Added to both diagonals, the first level.
        names: Of the two, for errors.

    Raises:
        FactorizationError: A matrix holds NaN or infinity, or stays indefinite.
    """
    level = _level((honesty, task), damping, names)
    pairs = zip(honesty.stacks, task.stacks, strict=True)
    parts = [_diagonalise(*stacks, level, names) for stacks in pairs]
    return Modes(
        vectors=BlockDiagonal(tuple(part.vectors for part in parts)),
        dual=BlockDiagonal(tuple(part.dual for part in parts)),
        honesty=torch.cat([part.honesty.flatten() for part in parts]),
        task=torch.cat([part.task.flatten() for part in parts]),
        span=None,
        width=honesty.width,
        damping=level,
        condition=max(part.norm for part in parts) * max(part.inverse_norm for part in parts),
    )


def _level(pair: Sequence[BlockDiagonal], damping: float, names: Sequence[str]) -> float:
    """The first damping at which both matrices pass Cholesky."""

    def attempt(which: Tensor | None, level: float) -> Tensor:
        chosen = pair if which is None else [pair[place] for place in which.tolist()]
        return torch.stack([_failing_order(matrix, level) for matrix in chosen])

    finite = [torch.stack([all_finite(stack).all() for stack in one.stacks]).all() for one in pair]
    used, status, _ = climb(torch.stack(finite), damping, attempt)
    raise_on_failure(status, used, names)
    return float(used.max())


def _failing_order(matrix: BlockDiagonal, level: float) -> Tensor:
    """Order of the first leading minor that fails, 0 if none."""
    first = torch.zeros((), dtype=torch.int32, device=matrix.device)
    before = 0
    for stack in matrix.stacks:
        count, size, _ = stack.shape
        damped = _damped(stack, level, pivot=level == 0)
        if count == 1 and recursion_is_faster(size, stack.device):
            order = cholesky_(damped[0], tiling_for(stack.device)).order
        else:
            order = failing_order(torch.linalg.cholesky_ex(damped)[1][None], size)[0]
        first = torch.where((first == 0) & (order > 0), before + order, first)
        before += count * size
    return first


def _damped(stack: Tensor, level: float, *, pivot: bool) -> Tensor:
    """A damped copy; with `pivot` a dead neuron gets a one on the diagonal."""
    damped = stack.clone(memory_format=torch.contiguous_format)
    diagonal = damped.diagonal(dim1=1, dim2=2)
    if pivot:
        diagonal.masked_fill_(diagonal == 0, 1)
    diagonal.add_(level)
    return damped


class _Diagonalised(NamedTuple):
    """`Modes` of a stack of m blocks `[b, b]`, and the 1-norms that its condition follows from."""

    vectors: Tensor
    dual: Tensor
    honesty: Tensor
    task: Tensor
    norm: float
    inverse_norm: float


def _diagonalise(
    honesty: Tensor, task: Tensor, level: float, names: Sequence[str]
) -> _Diagonalised:
    """Solve the pencils of two stacks `[m, b, b]` that are positive definite at this level.

    Operations by block: `b^3 / 3` for the factor, `2 b^3` for the two divisions, about `9 b^3` for
    the eigenproblem, `2 b^3` for the directions and their duals.
    """
    count, size, _ = honesty.shape
    whitened = _damped(task, level, pivot=False)
    total = _damped(honesty, level, pivot=level == 0).add_(whitened)
    factor = torch.linalg.cholesky_ex(total)[0]
    unit = torch.zeros(1, count, size, dtype=torch.bool, device=total.device)
    norm = one_norms(total, unit[0]).amax(0, keepdim=True)
    bound = condition_bound(lambda rows: torch.cholesky_solve(rows.mT, factor).mT, norm, unit)
    del total
    for _ in range(2):
        whitened = torch.linalg.solve_triangular(factor, whitened.mT, upper=False)
    try:
        share, basis = torch.linalg.eigh(whitened)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise FactorizationError(
            f"The eigenproblem of {names[0]} and {names[1]} did not converge: measure more tokens, "
            "or ask for a larger damping."
        ) from error
    del whitened
    # Damped moments are at least `level`, and C at most its norm; below eps all is rounding.
    floor = min(level / float(norm), torch.finfo(share.dtype).eps)
    return _Diagonalised(
        vectors=torch.linalg.solve_triangular(factor.mT, basis, upper=True),
        dual=factor @ basis,
        honesty=(1 - share).clamp_min(max(floor, SMALLEST_SHARE)),
        task=share.clamp_min(floor),
        norm=float(norm),
        inverse_norm=float(bound / norm),
    )
