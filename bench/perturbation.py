"""Cases of `perturbation`: bytes that must be read, over the bandwidth of a copy."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, share_of_bandwidth
from bench.timing import normal
from hcnr_kernels.checks import Axis

BLOCK = ((4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096),
         (14336, 4096), (14336, 4096), (4096, 14336))  # fmt: skip
"""Weights `[out, in]` of one block of Llama-3.1-8B."""


class Matrix(NamedTuple):
    """The two weights of a matrix, and a mask of about half its neurons."""

    base: Tensor
    tuned: Tensor
    mask: Tensor
    axis: Axis

    @property
    def along(self) -> Tensor:
        """The mask as it is broadcast over the weights."""
        return self.mask[:, None] if self.axis == "output" else self.mask

    @property
    def masked_share(self) -> float:
        return float(self.mask.float().mean())


def matrix(shape: tuple[int, int], axis: Axis, device: torch.device, seed: int) -> Matrix:
    base = normal(*shape, device=device, dtype=torch.float32, seed=seed)
    change = normal(*shape, device=device, dtype=torch.float32, seed=seed + 1)
    neurons = shape[0] if axis == "output" else shape[1]
    mask = normal(neurons, device=device, dtype=torch.float32, seed=seed + 2) > 0
    return Matrix(base.bfloat16(), (base + 0.1 * change).bfloat16(), mask, axis)


def matrices(
    shapes: tuple[tuple[int, int], ...], axis: Axis, device: torch.device, small: bool
) -> list[Matrix]:
    if small:
        shapes = tuple((rows // 64, columns // 64) for rows, columns in shapes)
    return [matrix(shape, axis, device, 40 + 3 * i) for i, shape in enumerate(shapes)]


def described(chosen: list[Matrix]) -> str:
    if len(chosen) > 1:
        return f"{len(chosen)} matrices of a block"
    return " x ".join(str(size) for size in chosen[0].base.shape)


def perturbation(
    shapes: tuple[tuple[int, int], ...],
    axis: Axis,
    prediction: float,
    device: torch.device,
    small: bool,
) -> Case:
    chosen = matrices(shapes, axis, device, small)

    @cache
    def reference() -> list[Tensor]:
        pairs = [((m.base.double() - m.tuned) * m.along, m.base.double() * m.along) for m in chosen]
        return [norm.square().sum() for pair in pairs for norm in pair]

    def error(results: tuple[Tensor, ...]) -> float:
        ratios = [(a.double() / b - 1).abs() for a, b in zip(results, reference(), strict=True)]
        return float(torch.stack(ratios).max())

    def ours() -> tuple[Tensor, ...]:
        return tuple(
            norm
            for one in chosen
            for norm in hk.perturbation(one.base, one.tuned, one.mask, axis=axis)
        )

    def rival() -> tuple[Tensor, ...]:
        sums = []
        for matrix in chosen:
            base = matrix.base.float() * matrix.along
            sums += [
                (base - matrix.tuned.float() * matrix.along).square().sum(),
                base.square().sum(),
            ]
        return tuple(sums)

    # Rows that are no candidates need not be read; of columns every sector holds a candidate.
    nbytes = sum(
        (one.base.nbytes + one.tuned.nbytes) * (one.masked_share if axis == "output" else 1.0)
        for one in chosen
    )
    return Case(
        title=f"perturbation, {axis} axis",
        shape=described(chosen),
        dtype=torch.bfloat16,
        run=ours,
        error=error,
        flops=0.0,
        nbytes=nbytes,
        rivals={"torch": rival},
        goal=Goal("share of the copy bandwidth", share_of_bandwidth, 0.85, prediction),
    )


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    "output": partial(perturbation, ((14336, 4096),), "output", 0.8),
    "input": partial(perturbation, ((14336, 4096),), "input", 0.88),
    "block, output": partial(perturbation, BLOCK, "output", 0.75),
    "block, input": partial(perturbation, BLOCK, "input", 0.8),
}
