"""The span of two Grams of few tokens: found at random, then verified.

The range of `(M_h + M_t) Omega`, Omega random with a few columns more than the claimed rank. In
fp32 one product drowns the directions of small eigenvalues in the rounding of the large ones, so
the sum is applied twice; what is left out then is as much as rounding of the Grams themselves.

A partial Cholesky factor with panels of pivots costs less, but in fp32 it left remainders of 1e-2
of the mean diagonal, more than the damping.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 1e-2
"""By how much a quadratic form of a damped Gram may change, as a share of it, by what is left out
of its span. A hundred times less is usual."""

OVERSAMPLING = 8
"""Random columns beyond the claimed rank."""

PROBES = 8
"""Random vectors of the verification: its bound is too small with a probability of `10^-PROBES`."""


class Symmetric(NamedTuple):
    """A positive semi-definite matrix M `[d, d]`.

    Attributes:
        factor: M, or rows `[n, d]`.
        squared: Whether `M = factor^T factor`.
    """

    factor: Tensor
    squared: bool

    def times(self, right: Tensor) -> Tensor:
        """`M right`, for `[d, c]`."""
        product = self.factor @ right
        return self.factor.T @ product if self.squared else product


class Span(NamedTuple):
    """Orthonormal columns `span [d, n]` and `inside`, both matrices in them, `[n, n]` each."""

    span: Tensor
    inside: tuple[Tensor, Tensor]


def find_span(first: Symmetric, second: Symmetric, rank: int, damping: float) -> Span | None:
    """The common span of two matrices, or None where they have more than the claimed rank.

    Args:
        first: Divided by its mean diagonal.
        second: Likewise.
        rank: Claimed for their sum.
        damping: What will be added to the diagonals.
    """
    like = first.factor
    total = None
    if not (first.squared or second.squared):
        total = Symmetric(first.factor + second.factor, squared=False)
    span = _normal(like.shape[1], min(rank + OVERSAMPLING, like.shape[1]), like, seed=0)
    for _ in range(2):
        image = total.times(span) if total else first.times(span) + second.times(span)
        span = torch.linalg.qr(image)[0]
    inside = []
    for matrix in (first, second):
        part = span.T @ matrix.times(span)
        inside.append((part + part.T) / 2)
        if not matrix.squared and left_out(matrix, span, inside[-1], damping) > NEGLIGIBLE:
            return None
    return Span(span, (inside[0], inside[1]))


def _normal(rows: int, columns: int, like: Tensor, *, seed: int) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn((rows, columns), generator=generator, device=like.device, dtype=like.dtype)


def left_out(
    matrix: Symmetric, span: Tensor, inside: Tensor, damping: float, steps: int = 6
) -> float:
    """By how much, at most, a quadratic form of the damped matrix changes outside the span.

    With `P = M - Q K Q^T` left out and `W W^T = (Q K Q^T + damping I)^-1` this is the 2-norm of
    `A = W^T P W`. It is bounded by `|A^s| <= 10 sqrt(2 / pi) max |A^s w_i|` over PROBES Gaussian
    vectors w_i (lemma 4.1 of Halko, Martinsson, Tropp 2011), wrong once in `10^PROBES` cases; the
    s-th root leaves little of the factor.

    Args:
        matrix: M.
        span: Q `[d, n]`, orthonormal columns.
        inside: K `[n, n]`, `Q^T M Q`.
        damping: Added to the diagonal.
        steps: s.
    """
    damped = inside.clone()
    damped.diagonal().add_(damping)
    factor, order = torch.linalg.cholesky_ex(damped)
    if int(order):
        return math.inf

    def whitened(rows: Tensor, *, transposed: bool) -> Tensor:
        """`rows W^T`, or `rows W`."""
        coordinates = rows @ span
        root = factor.mT if transposed else factor
        inner = torch.linalg.solve_triangular(root, coordinates, upper=transposed, left=False)
        return torch.addmm(
            rows / math.sqrt(damping), inner - coordinates / math.sqrt(damping), span.T
        )

    # Rows, as products with a few columns are slow on a CPU.
    probes = _normal(PROBES, len(span), span, seed=1)
    logarithm = math.log(10 * math.sqrt(2 / math.pi))
    for _ in range(steps):
        rows = whitened(probes, transposed=False)
        remainder = torch.addmm(matrix.times(rows.T).T, rows @ span @ inside, span.T, alpha=-1)
        probes = whitened(remainder, transposed=True)
        largest = float(torch.linalg.vector_norm(probes, dim=1).max())
        if largest == 0:
            return 0.0
        logarithm += math.log(largest)
        probes /= largest
    return math.exp(logarithm / steps)
