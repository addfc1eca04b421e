"""How exact a large damped inverse is when its products are rounded as tensor cores round them.

    python -m bench.tracking.rounding 700    # the table of docs/cholesky.md; minutes above 2000

The elimination of `hcnr_kernels/ops/inverse/triton.py` in plain torch on the CPU: squares of 128
whose diagonal is factorised by halves, panels divided with one correction. `rounding` says what
becomes of a product of fp32 matrices. The tests run the kernels themselves with the same rounding.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.hard_matrices import spectra

Product = Callable[[Tensor, Tensor], Tensor]
"""`left [m, k]` times the transposed `right [n, k]`."""

SQUARE, HALF, STEP = 128, 64, 32


def tf32(values: Tensor) -> Tensor:
    """fp32 rounded to TF32, ties away from zero."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def cut(values: Tensor) -> Tensor:
    """float64 to fp32, the low bits cut off."""
    single = values.float()
    rounded_up = single.double().abs() > values.abs()
    return torch.where(rounded_up, torch.nextafter(single, torch.zeros_like(single)), single)


def split_products(left: Tensor, right: Tensor) -> Tensor:
    """Three TF32 products, the small ones first, of 32 columns at a time; sums in fp32."""
    total = torch.zeros(len(left), len(right))
    high, high_right = tf32(left), tf32(right)
    low, low_right = tf32(left - high), tf32(right - high_right)
    for first in range(0, left.shape[1], STEP):
        at = slice(first, first + STEP)
        small = low[:, at] @ high_right[:, at].T + high[:, at] @ low_right[:, at].T
        total = total + (small + high[:, at] @ high_right[:, at].T)
    return total


def cut_products(left: Tensor, right: Tensor) -> Tensor:
    """The same, sums of eight products cut off when they are added to what is there."""
    total = torch.zeros(len(left), len(right))
    highs = [tf32(one) for one in (left, right)]
    lows = [tf32(one - high) for one, high in zip((left, right), highs, strict=True)]
    for first in range(0, left.shape[1], STEP):
        step = torch.zeros_like(total)
        for a, b in ((lows[0], highs[1]), (highs[0], lows[1]), (highs[0], highs[1])):
            for start in range(first, min(first + STEP, left.shape[1]), 8):
                at = slice(start, start + 8)
                step = cut(step.double() + a[:, at].double() @ b[:, at].double().T)
        total = total + step
    return total


ROUNDINGS: dict[str, Product] = {
    "fp32": lambda left, right: left @ right.T,
    "three TF32": split_products,
    "the same, cut off": cut_products,
    "one TF32": lambda left, right: tf32(left) @ tf32(right).T,
}


def _divided(rows: Tensor, factor: Tensor, inverse: Tensor, product: Product) -> Tensor:
    quotient = product(rows, inverse)
    return quotient + product(rows - product(quotient, factor), inverse)


def _inverse(factor: Tensor) -> Tensor:
    unit = torch.eye(len(factor), dtype=factor.dtype)
    return torch.linalg.solve_triangular(factor, unit, upper=False)


def _factorised(square: Tensor, product: Product) -> tuple[Tensor, Tensor]:
    """L and its inverse; of 64 columns and fewer by LAPACK."""
    if len(square) <= HALF:
        factor = torch.linalg.cholesky(square)
        return factor, _inverse(factor)
    first, first_inverse = _factorised(square[:HALF, :HALF], product)
    below = _divided(square[HALF:, :HALF], first, first_inverse, product)
    last, last_inverse = _factorised(square[HALF:, HALF:] - product(below, below), product)
    factor, inverse = torch.block_diag(first, last), torch.block_diag(first_inverse, last_inverse)
    factor[HALF:, :HALF] = below
    inverse[HALF:, :HALF] = -product(last_inverse, product(below, first_inverse.T).T)
    return factor, inverse


def _panel(rows: Tensor, factor: Tensor, inverse: Tensor, product: Product) -> Tensor:
    first = _divided(rows[:, :HALF], factor[:HALF, :HALF], inverse[:HALF, :HALF], product)
    if len(factor) <= HALF:
        return first
    rest = rows[:, HALF:] - product(first, factor[HALF:, :HALF])
    last = _divided(rest, factor[HALF:, HALF:], inverse[HALF:, HALF:], product)
    return torch.cat([first, last], 1)


def inverted(matrix: Tensor, product: Product) -> Tensor:
    """Inverse of `[d, d]` fp32 by the elimination."""
    left, width = matrix.tril(), len(matrix)
    for low in range(0, width, SQUARE):
        high = min(low + SQUARE, width)
        own = left[low:high, low:high].tril()
        factor, inverse = _factorised(own + own.tril(-1).T, product)
        panel = torch.cat(
            [
                _panel(left[low:high, :low].T, factor, inverse, product),
                inverse.T,
                _panel(left[high:, low:high], factor, inverse, product),
            ]
        )
        left[low:high, :high] = 0
        left[low:, low:high] = 0
        for first in range(0, width, SQUARE):
            last = min(first + SQUARE, width)
            left[first:last, :last] -= product(panel[first:last], panel[:last])
    lower = left.tril()
    return -(lower + lower.tril(-1).T)


def errors(matrix: Tensor) -> list[str]:
    """Errors against float64: torch's route, then every rounding; `fails` without a factor."""
    want = torch.linalg.inv(matrix.double())
    results = [relative_error(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), want)]
    for product in ROUNDINGS.values():
        try:
            results.append(relative_error(inverted(matrix, product), want))
        except RuntimeError:  # no factor
            results.append(float("inf"))
    return ["fails" if error == float("inf") else f"{error:.1e}" for error in results]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tracking.rounding", description=__doc__)
    parser.add_argument("width", type=int)
    width = parser.parse_args(arguments).width
    print(f"| spectrum | condition | torch | {' | '.join(ROUNDINGS)} |")
    for condition in (1e4, 1e6):
        for name, matrix in spectra(width, condition).items():
            cells = errors(((matrix + matrix.T) / 2).float())
            print(f"| {name} | {condition:.0e} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
