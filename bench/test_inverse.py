"""The damped inverse and the compensation against torch's routes, in the same run.

Ours includes the finite check, the damping, dead neurons and the condition number; a rival damps
and inverts, nothing else.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.inverse import by_cholesky, curvature, damped
from hcnr_kernels.ops.compensation.vectorised import compensation_ex
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import alternate, randn

Race = Callable[..., dict[str, float]]


def by_triangle(stack: Tensor) -> Tensor:
    factor = torch.linalg.cholesky_ex(damped(stack))[0]
    unit = torch.eye(stack.shape[-1], device=stack.device).expand_as(stack)
    root = torch.linalg.solve_triangular(factor, unit, upper=False)
    return root.mT @ root


def by_inv(stack: Tensor) -> Tensor:
    """One by one: a batch of 150 x 150 and more hangs in torch 2.13 on two CPU threads."""
    return torch.stack([torch.linalg.inv(one) for one in damped(stack)])


@pytest.mark.parametrize(
    ("count", "width"), [(1, 256), (1, 1024), (1, 2048), (1, 4096), (16, 256), (1024, 64)]
)
def test_inverse(count: int, width: int, race: Race, device: torch.device) -> None:
    stack = curvature(width, device, count)
    inverse = hk.inverse_hessian(stack).matrix
    assert isinstance(inverse, Tensor)
    some = slice(0, 16)
    want = by_inv(stack[some].double())
    plain = relative_error(by_cholesky(stack[some]), want)
    ours = relative_error(inverse[some], want)
    assert ours <= 10 * plain
    identity = torch.eye(width, device=device, dtype=torch.float64)
    residual = (damped(stack[some]).double() @ inverse[some].double() - identity).norm()
    race(
        f"inverse_hessian {count} x {width}",
        {
            "inverse_hessian": lambda: hk.inverse_hessian(stack),
            "bare cholesky_ex + cholesky_inverse": lambda: by_cholesky(stack),
            "linalg.inv": lambda: by_inv(stack),
            "triangular inverse + product": lambda: by_triangle(stack),
        },
        rounds=4 if width > 2000 else 9,
        busy=True,
        error_over_torch=ours / plain,
        residual=float(residual / identity.norm() / len(stack[some]) ** 0.5),
    )


@pytest.mark.parametrize("width", [1024, 4096])
@pytest.mark.parametrize("kind", ["joint", "sum"])
def test_compensation(kind: str, width: int, race: Race, device: torch.device) -> None:
    """Half the neurons restored, as many lines as neurons."""
    hessian = curvature(width, device)[0]
    delta = randn(width, width, device="cpu", dtype=torch.float32, seed=3).to(device)
    mask = alternate(width, str(device))

    def ours() -> Tensor:
        return compensation_ex(delta, mask, hessian, "input", kind, None, 1.0, 0.01, None)[0]

    def rival() -> Tensor:
        whole, result = damped(hessian), delta.clone()
        if kind == "joint":
            right = delta[:, ~mask] @ whole[~mask][:, mask]
            result[:, mask] = -torch.linalg.solve(whole[mask][:, mask], right, left=False)
        else:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(whole)[0])
            weights = delta[:, ~mask] / inverse.diagonal()[~mask]
            result[:, mask] = weights @ inverse[~mask][:, mask]
        return result

    assert relative_error(ours(), rival()) < 1e-4
    name = "linalg.solve" if kind == "joint" else "cholesky_ex + cholesky_inverse + product"
    race(
        f"compensation, {kind}, {width} x {width}",
        {"compensation": ours, name: rival},
        rounds=4 if width > 2000 else 9,
        busy=True,
    )
