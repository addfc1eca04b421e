"""Cases of `merge`: bytes that must be moved, over the bandwidth of a copy."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, share_of_bandwidth
from bench.perturbation import BLOCK, Matrix, described, matrices
from bench.timing import normal
from hcnr_kernels.checks import Axis


def _plain(matrix: Matrix, deviation: Tensor | None) -> Tensor:
    if deviation is None:
        return torch.where(matrix.along, matrix.base, matrix.tuned)
    return torch.where(matrix.along, (matrix.base.float() + deviation).bfloat16(), matrix.tuned)


def merge(
    shapes: tuple[tuple[int, int], ...],
    axis: Axis,
    compensated: bool,
    prediction: float,
    device: torch.device,
    small: bool,
) -> Case:
    chosen = matrices(shapes, axis, device, small)
    deviations = [
        normal(*one.base.shape, device=device, dtype=torch.float32, seed=70 + i)
        if compensated
        else None
        for i, one in enumerate(chosen)
    ]
    pairs = list(zip(chosen, deviations, strict=True))

    def error(results: tuple[Tensor, ...]) -> float:
        """0 if every bit is that of the definition, computed row by row of the pair."""
        wanted = (_plain(one, deviation) for one, deviation in pairs)
        return float(not all(map(torch.equal, results, wanted)))

    def ours() -> tuple[Tensor, ...]:
        return tuple(
            hk.merge(one.base, one.tuned, one.mask, deviation, axis=axis, dtype=torch.bfloat16)
            for one, deviation in pairs
        )

    # By rows each weight is read from one of the two; by columns every sector holds both kinds.
    nbytes = 0.0
    for matrix, deviation in pairs:
        share = matrix.masked_share if axis == "output" else 1.0
        nbytes += matrix.base.nbytes * (2 if axis == "output" else 3)
        nbytes += 0.0 if deviation is None else deviation.nbytes * share
    return Case(
        title=f"merge, {axis} axis, {'with E' if compensated else 'base weights'}",
        shape=described(chosen),
        dtype=torch.bfloat16,
        run=ours,
        error=error,
        flops=0.0,
        nbytes=nbytes,
        rivals={"torch.where": lambda: tuple(_plain(*pair) for pair in pairs)},
        goal=Goal("share of the copy bandwidth", share_of_bandwidth, 0.85, prediction),
        tolerance=0.0,
    )


ONE = ((14336, 4096),)
CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    "output": partial(merge, ONE, "output", True, 0.9),
    "input": partial(merge, ONE, "input", True, 0.88),
    "output, no deviation": partial(merge, ONE, "output", False, 0.9),
    "block, output": partial(merge, BLOCK, "output", True, 0.88),
    "block, input": partial(merge, BLOCK, "input", True, 0.86),
}
