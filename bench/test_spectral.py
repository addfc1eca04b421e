"""The spectral basis of method.md (10): its cost, the span of few tokens, many task weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.inverse import curvature
from bench.timing import normal
from hcnr_kernels.testing.accuracy import relative_error

Race = Callable[..., dict[str, float]]
SWEEP = torch.logspace(-3, 3, 20).tolist()
OUT = 64


def damped(matrix: Tensor) -> Tensor:
    matrix = matrix / matrix.diagonal().mean()
    matrix.diagonal().add_(0.01)
    return matrix


def textbook(delta: Tensor, honesty: tuple[Tensor, ...], task: tuple[Tensor, ...]) -> Tensor:
    """E at mu = 1, whitened by the honesty curvature, by torch's routines and nothing else."""
    sides = []
    for honesty_moment, task_moment in zip(honesty, task, strict=True):
        factor = torch.linalg.cholesky(damped(honesty_moment))
        half = torch.linalg.solve_triangular(factor, damped(task_moment), upper=False)
        values, basis = torch.linalg.eigh(
            torch.linalg.solve_triangular(factor, half.mT, upper=False)
        )
        vectors = torch.linalg.solve_triangular(factor.mT, basis, upper=True)
        sides.append((values, vectors, factor @ basis))
    (a, v, dual_v), (g, u, dual_u) = sides
    share = torch.outer(g, a)
    return u @ (share / (1 + share) * (dual_u.mT @ delta @ dual_v)) @ v.mT


def whole_matrix(device: torch.device) -> tuple[Any, ...]:
    delta = normal(4096, 1024, device=device, dtype=torch.float32, seed=3)
    honesty = (curvature(1024, device)[0], curvature(4096, device)[0])
    # Reversed, so that the two curvatures differ in every direction.
    task = tuple(matrix.flip(0, 1).contiguous() for matrix in honesty)
    return delta, honesty, task


def test_basis(race: Race, device: torch.device) -> None:
    delta, honesty, task = whole_matrix(device)

    def ours() -> Tensor:
        return hk.spectral_basis(delta, honesty, task).deviation(1.0)

    assert relative_error(ours(), textbook(delta, honesty, task)) < 1e-2
    race(
        "spectral_basis 4096 x 1024 and one E",
        {"spectral_basis": ours, "textbook": lambda: textbook(delta, honesty, task)},
        rounds=2,
        busy=True,
    )


def test_sweep(race: Race, device: torch.device) -> None:
    delta, honesty, task = whole_matrix(device)

    def sweep(weights: list[float]) -> None:
        basis = hk.spectral_basis(delta, honesty, task)
        for weight in weights:
            basis.deviation(weight)

    race(
        "spectral_basis 4096 x 1024, task weights",
        {"one": lambda: sweep([1.0]), "twenty": lambda: sweep(SWEEP)},
        rounds=2,
        busy=True,
    )


@pytest.mark.parametrize("size", [1024, 2048])
def test_report(size: int, race: Race, device: torch.device) -> None:
    """What is kept of a square matrix, for the report, over its basis and one E."""
    delta = normal(size, size, device=device, dtype=torch.float32, seed=3)
    honesty = (curvature(size, device)[0], curvature(size, device)[0])
    task = (honesty[0].flip(0, 1).contiguous(), honesty[1].flip(0, 1).contiguous())
    basis = hk.spectral_basis(delta, honesty, task)
    race(
        f"spectral_basis {size} x {size} and one E, its report",
        {"basis": lambda: hk.spectral_basis(delta, honesty, task).deviation(1.0),
         "report": lambda: basis.kept(1.0)},
        rounds=3,
        busy=True,
    )  # fmt: skip


@pytest.mark.parametrize("size", [64, 256])
def test_blocks(size: int, race: Race, device: torch.device) -> None:
    delta, honesty, task = whole_matrix(device)

    def blocks() -> Tensor:
        return hk.spectral_basis(delta, honesty, task, block_size=size).deviation(1.0)

    def whole() -> Tensor:
        return hk.spectral_basis(delta, honesty, task).deviation(1.0)

    zeroed = [
        tuple(hk.BlockDiagonal.cut(one, size).dense() for one in pair) for pair in (honesty, task)
    ]
    assert relative_error(blocks(), textbook(delta, zeroed[0], zeroed[1])) < 1e-2
    race(
        f"spectral_basis 4096 x 1024 and one E, blocks of {size}",
        {"blocks": blocks, "whole": whole},
        rounds=2,
        busy=True,
    )


@pytest.mark.parametrize("form", ["tokens", "ranked"])
@pytest.mark.parametrize("part", [16, 8, 4])
def test_few_tokens(form: str, part: int, race: Race, device: torch.device) -> None:
    """An axis of 14336, on a CPU a quarter as wide, with a `part`-th as many tokens a data set."""
    width = 14336 if device.type == "cuda" else 3584
    rows = [
        normal(width // part, width, device=device, dtype=torch.float32, seed=seed)
        for seed in range(2)
    ]
    grams = [one.mT @ one / len(one) for one in rows]
    other = [curvature(OUT, device)[0], curvature(OUT, device)[0].flip(0, 1)]
    delta = normal(OUT, width, device=device, dtype=torch.float32, seed=2)
    if form == "tokens":
        sides: list[Any] = [hk.Tokens(one) for one in rows]
    else:
        sides = [hk.RankedGram(gram, width // part) for gram in grams]

    def few() -> hk.SpectralBasis:
        return hk.spectral_basis(delta, (sides[0], other[0]), (sides[1], other[1]))

    def dense() -> hk.SpectralBasis:
        return hk.spectral_basis(delta, (grams[0], other[0]), (grams[1], other[1]))

    basis = few()
    assert basis.routes == ("dense", "tokens")
    assert relative_error(basis.deviation(1.0), dense().deviation(1.0)) < 1e-3
    race(
        f"spectral_basis by {form}, {width // part} + {width // part} of {width}",
        {"few": few, "dense": dense},
        rounds=2,
        busy=True,
    )
