"""Cases of the compensation: the kinds `sum` and `joint`, the objectives, the condition."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, against, rms_ratio, share_of_floor
from bench.inverse import TOLERANCE, by_cholesky, curvature, damped, require_extension
from bench.timing import normal
from hcnr_kernels.ops.inverse.blocks import damp_, mean_diagonal
from hcnr_kernels.ops.inverse.condition import condition_bound, one_norms
from hcnr_kernels.ops.inverse.factor import Cholesky, cholesky_
from hcnr_kernels.ops.inverse.solves import solver_of
from hcnr_kernels.ops.inverse.tiling import tiling_for
from hcnr_kernels.testing.tensors import alternate

SOLVER = "linalg.solve"
INVERSE = "cholesky_ex + cholesky_inverse + product"
WITHIN = 3.0
"""The estimate is a lower bound, "usually within a factor of three"."""


def shaped(width: int, small: bool) -> tuple[int, int]:
    """Neurons, and lines beside them: square, or the 4096 inputs of an up projection."""
    return (width // 16, 128) if small else (width, 4096)


def data(width: int, lines: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Curvature, deviations `[lines, width]`, and a mask of half the neurons."""
    hessian = curvature(width, device)[0]
    delta = normal(lines, width, device=device, dtype=torch.float32, seed=61)
    return hessian, delta, alternate(width, str(device))


def joint(device: torch.device, small: bool) -> Case:
    width, lines = shaped(4096, small)
    require_extension(device, 256)
    hessian, delta, mask = data(width, lines, device)
    restored, task = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)

    def solve(lines: Tensor) -> Tensor:
        whole, result = damped(hessian.to(lines.dtype)), lines.clone()
        right = lines[:, task] @ whole[task][:, restored]
        result[:, restored] = -torch.linalg.solve(whole[restored][:, restored], right, left=False)
        return result

    exact = cache(lambda: solve(delta[:16].double()))
    half = len(restored)
    return Case(
        title="compensation joint",
        shape=f"{lines} x {width}, {half} restored",
        dtype=torch.float32,
        run=lambda: hk.compensation(delta, mask, hessian, axis="input", kind="joint"),
        error=lambda found: rms_ratio(found[0][:16, restored], exact()[:, restored]),
        flops=half**3 / 3 + 2 * half**2 * lines + 2 * lines * half * (width - half),
        nbytes=hessian.nbytes + 2 * delta.nbytes,
        rivals={SOLVER: lambda: solve(delta)},
        goal=Goal(f"speed-up over {SOLVER}", against(SOLVER), 2.0, prediction=1.5),
        tolerance=TOLERANCE,
        arithmetic=torch.float32,
        note="two thirds of the operations are products that both ways share",
    )


def summed(width: int, device: torch.device, small: bool) -> Case:
    """The default kind of the paper's method; its rows of the inverse, its products, its facts."""
    size, lines = shaped(width, small)
    require_extension(device, 256)
    hessian, delta, mask = data(size, lines, device)
    restored, task = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)

    def by_inverse(lines: Tensor, inverse: Tensor) -> Tensor:
        result = lines.clone()
        weights = lines[:, task] / inverse.diagonal()[task]
        result[:, restored] = weights @ inverse[task][:, restored]
        return result

    @cache
    def exact() -> Tensor:
        factor = torch.linalg.cholesky(damped(hessian.double()))
        return by_inverse(delta[:16].double(), torch.cholesky_inverse(factor))

    half = len(restored)
    rest = size - half
    return Case(
        title=f"compensation sum {width}",
        shape=f"{lines} x {size}, {half} restored",
        dtype=torch.float32,
        run=lambda: hk.compensation(delta, mask, hessian, axis="input", kind="sum"),
        error=lambda found: rms_ratio(found[0][:16, restored], exact()[:, restored]),
        # The factor, the rows of the inverse of the task neurons, the product.
        flops=size**3 / 3 + rest * size**2 - rest**3 / 3 + 2 * lines * half * rest,
        nbytes=hessian.nbytes + 2 * delta.nbytes,
        rivals={INVERSE: lambda: by_inverse(delta, by_cholesky(hessian[None])[0])},
        goal=Goal(f"speed-up over {INVERSE}", against(INVERSE), None, prediction=1.4),
        tolerance=TOLERANCE,
        arithmetic=torch.float32,
    )


def objective(width: int, device: torch.device, small: bool) -> Case:
    size, lines = shaped(width, small)
    hessian, delta, _ = data(size, lines, device)

    @cache
    def exact() -> Tensor:
        # A few lines at a time: in float64 the whole would not fit beside the rest.
        parts = [part.double() for part in delta.split(512)]
        wide = hessian.double()
        return torch.stack([((part @ wide) * part).sum() for part in parts]).sum()

    rival = "(E @ H) * E, summed"
    return Case(
        title=f"objective {width}",
        shape=f"{lines} x {size}",
        dtype=torch.float32,
        run=lambda: hk.objective(delta, hessian, axis="input"),
        error=lambda found: float((found[0] / exact() - 1).abs()),
        flops=2 * lines * size**2,
        nbytes=hessian.nbytes + delta.nbytes,
        rivals={rival: lambda: ((delta @ hessian) * delta).sum(dtype=torch.float64)},
        goal=Goal("share of the floor", share_of_floor, None, prediction=0.8),
        tolerance=TOLERANCE,
        arithmetic=torch.float32,
    )


def objectives(width: int, device: torch.device, small: bool) -> Case:
    """What a report says of every repaired matrix, with compensation and without."""
    size, lines = shaped(width, small)
    hessian, delta, mask = data(size, lines, device)

    @cache
    def exact() -> tuple[float, float]:
        # A few lines at a time: in float64 the whole would not fit beside the rest.
        wide, kept = hessian.double(), (~mask).double()
        parts = [part.double() for part in delta.split(512)]
        totals = [sum(float(((one @ wide) * one).sum()) for one in some) for some in (
            [part * kept for part in parts], parts)]  # fmt: skip
        return totals[0], totals[1]

    rival = "(E @ H) * E, summed, twice"

    def twice() -> list[Tensor]:
        both = delta.masked_fill(mask, 0), delta
        return [((one @ hessian) * one).sum(dtype=torch.float64) for one in both]

    return Case(
        title=f"objectives {width}",
        shape=f"{lines} x {size}",
        dtype=torch.float32,
        run=lambda: hk.objectives(delta, mask, hessian, axis="input"),
        error=lambda found: max(
            abs(float(one) / want - 1) for one, want in zip(found, exact(), strict=True)
        ),
        flops=4 * lines * size**2,
        nbytes=hessian.nbytes + delta.nbytes,
        rivals={rival: twice},
        goal=Goal(f"speed-up over {rival}", against(rival), None, prediction=7.0),
        tolerance=TOLERANCE,
        arithmetic=torch.bfloat16,
        note="four half products in bf16, where the rival forms two whole ones in fp32",
    )


def condition(width: int, device: torch.device, small: bool) -> Case:
    """The estimate beside the factorisation that it describes."""
    size, _ = shaped(width, small)
    require_extension(device, 256)
    hessian = curvature(size, device)[0]
    shift = 0.01 * mean_diagonal(hessian[None]).to(hessian.dtype)
    unit = torch.zeros(1, size, dtype=torch.bool, device=device)

    def factor() -> Cholesky:
        return cholesky_(damp_(hessian[None].clone(), shift, unit)[0], tiling_for(device))

    factored, norm = factor(), one_norms(hessian[None], unit, shift)

    @cache
    def exact() -> Tensor:
        whole = damped(hessian.double())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(whole))
        return whole.abs().sum(0).amax() * inverse.abs().sum(0).amax()

    def error(results: tuple[Tensor, ...]) -> float:
        """0 if the bound keeps its promise."""
        share = float(results[0].double().squeeze() / exact())
        return float(not 1 / WITHIN <= share <= 1 + TOLERANCE)

    def factorise() -> None:
        factor()

    yardstick = "the factorisation"
    return Case(
        title=f"condition estimate {width}",
        shape=f"{size} x {size}",
        dtype=torch.float32,
        run=lambda: condition_bound(solver_of(factored), norm, unit[None]),
        error=error,
        flops=3 * 2 * 2 * size**2,
        nbytes=3 * hessian.nbytes,
        rivals={yardstick: factorise},
        goal=Goal(f"speed-up over {yardstick}", against(yardstick), None, prediction=3.0),
        tolerance=0.0,
        arithmetic=torch.float32,
        note="two steps from two starts, three solves, each of which reads the factor once",
    )


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    "joint": joint,
    "sum 4096": partial(summed, 4096),
    "sum 14336": partial(summed, 14336),
    "objective 4096": partial(objective, 4096),
    "objective 14336": partial(objective, 14336),
    "objectives 4096": partial(objectives, 4096),
    "objectives 14336": partial(objectives, 14336),
    "condition 4096": partial(condition, 4096),
    "condition 14336": partial(condition, 14336),
}
