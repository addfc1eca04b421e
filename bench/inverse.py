"""Cases of `inverse_hessian`: one large matrix, thousands of small blocks.

Ours includes the finite check, damping, dead neurons and the condition number; a rival damps and
inverts, nothing else.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, against, rms_ratio
from bench.timing import normal
from hcnr_kernels import native

RIVAL = "cholesky_ex + cholesky_inverse"
TOLERANCE = 1e-3
"""Condition 1e4 in fp32."""

LARGE = {4096: 2.9, 14336: 2.4}
"""Predicted speed-up by width (`bench/tracking/elimination.py`): torch solves for the identity, 2.3
d^3 operations to our d^3; at 4096 either is as slow as what it does one after the other."""

BLOCKS = {(1024, 64): 20.0, (1024, 128): 10.0, (1024, 256): 7.0, (64, 64): 15.0, (64, 256): 6.0,
          (16, 512): None, (16, 1024): None}  # fmt: skip
"""Predicted speed-up by number and size of blocks: half of the fp32 peak at 256, less below, where
the 16 pivots of a step, one after the other, take as long as its products. Blocks wider than the
extension's are inverted one by one, and have neither target nor prediction."""

WIDEST = 256
"""Of the blocks that the extension takes on a GPU."""

OUTPUTS = (4096, 1024, 1024, 4096, 14336, 14336, 4096)
"""Neurons of a block's seven matrices in Llama-3.1-8B, output axis."""

LAYERS = 13
"""Times seven matrices: 40 % of 32 blocks."""


def curvature(width: int, device: torch.device, count: int = 1) -> Tensor:
    """`[count, width, width]` of condition about 1e4 once damped, alike but for their scale."""
    tokens = normal(2 * width, width, device=device, dtype=torch.float32, seed=60)
    tokens *= torch.logspace(-1, 0, width, device=device)
    scales = torch.linspace(0.5, 2, count, device=device)
    return torch.mm(tokens.T, tokens).div_(2 * width) * scales[:, None, None]


def require_extension(device: torch.device, size: int) -> None:
    """Refuse a row that would set torch beside itself.

    Raises:
        RuntimeError: The compiled extension is no use on this GPU.
    """
    trouble = native.unavailable(device, torch.float32, size)
    if device.type == "cuda" and trouble is not None:
        raise RuntimeError(
            f"the compiled extension cannot be used ({trouble}), so this would time torch's own "
            "routes; see the section build"
        )


def damped(stack: Tensor) -> Tensor:
    """A damped copy; nothing else of a rival's time is about damping."""
    diagonal = (whole := stack.clone()).diagonal(dim1=-2, dim2=-1)
    diagonal += 0.01 * diagonal.mean(-1, keepdim=True)
    return whole


def by_cholesky(stack: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(damped(stack))[0])


def solution_error(damped_matrix: Tensor, columns: slice = slice(0, 64)) -> Callable[..., float]:
    """Error of some columns of an inverse; in float64 the whole would take longer than is timed."""
    exact = cache(
        lambda: torch.cholesky_solve(
            torch.eye(len(damped_matrix), device=damped_matrix.device, dtype=torch.float64)[
                :, columns
            ],
            torch.linalg.cholesky(damped_matrix.double()),
        )
    )
    return lambda found: rms_ratio(found[0].view_as(damped_matrix)[:, columns], exact())


def large(width: int, device: torch.device, small: bool) -> Case:
    size = width // 16 if small else width
    stack = curvature(size, device)
    return Case(
        title=f"inverse_hessian {width}",
        shape=f"{size} x {size}",
        dtype=torch.float32,
        run=lambda: hk.inverse_hessian(stack).matrix,
        error=solution_error(damped(stack)[0]),
        flops=size**3,
        nbytes=2 * stack.nbytes,
        rivals={RIVAL: lambda: by_cholesky(stack)},
        goal=Goal(f"speed-up over {RIVAL}", against(RIVAL), 2.0, prediction=LARGE[width]),
        tolerance=TOLERANCE,
        arithmetic=torch.float32,
    )


def blocks(count: int, size: int, device: torch.device, small: bool) -> Case:
    require_extension(device, min(size, WIDEST))
    title, count = f"inverse_hessian, {count} blocks of {size}", min(count, 4) if small else count
    stack = curvature(size, device, count)
    exact = cache(lambda: torch.linalg.inv(damped(stack[::100]).double()))
    return Case(
        title=title,
        shape=f"{count} x {size} x {size}",
        dtype=torch.float32,
        run=lambda: hk.inverse_hessian(stack).matrix,
        error=lambda found: rms_ratio(found[0][::100], exact()),
        flops=count * size**3,
        nbytes=2 * stack.nbytes,
        rivals={RIVAL: lambda: by_cholesky(stack)},
        goal=Goal(
            f"speed-up over {RIVAL}",
            against(RIVAL),
            5.0 if size <= WIDEST else None,
            prediction=BLOCKS[count, size] if not small else None,
        ),
        tolerance=TOLERANCE,
        arithmetic=torch.float32,
    )


def model(device: torch.device, small: bool) -> Case:
    """All blocks of 128 of the matrices that are selected in an 8B model, as they would be cut."""
    size = 128
    require_extension(device, size)
    widths = (256, 384) if small else OUTPUTS * LAYERS
    most = curvature(size, device, max(widths) // size)
    stacks = [most[: width // size] for width in widths]
    joined = torch.cat(stacks)
    shifts = 0.01 * joined.diagonal(dim1=-2, dim2=-1).mean(-1)
    exact = cache(lambda: torch.linalg.inv(damped(joined[::100]).double()))

    def ours() -> Tensor:
        inverted = native.invert_blocks(joined, shifts)
        assert not bool(inverted.status.any())
        return inverted.results

    def rival() -> Tensor:
        return torch.cat([by_cholesky(stack) for stack in stacks])

    available = native.unavailable(device, torch.float32, size) is None
    return Case(
        title="invert_blocks, all of a model",
        shape=f"{len(stacks)} matrices, {len(joined)} blocks of {size}",
        dtype=torch.float32,
        run=ours if available else rival,
        error=lambda found: rms_ratio(found[0][::100], exact()),
        flops=len(joined) * size**3,
        nbytes=2 * joined.nbytes,
        rivals={f"{RIVAL} per matrix": rival},
        goal=Goal(
            f"speed-up over {RIVAL} per matrix",
            against(f"{RIVAL} per matrix"),
            5.0,
            prediction=12.0,
        ),
        tolerance=TOLERANCE,
        arithmetic=torch.float32,
    )


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    **{str(width): partial(large, width) for width in LARGE},
    **{f"{count} blocks of {size}": partial(blocks, count, size) for count, size in BLOCKS},
    "all of a model": model,
}
