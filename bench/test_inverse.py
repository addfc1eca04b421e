"""The damped inverse against `linalg.inv`, one large matrix and many small ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.registry import relative_error
from hcnr_kernels.samples import curvature


@pytest.mark.parametrize(("count", "width"), [(1, 1024), (16, 256), (64, 64)])
def test_against_linalg(count: int, width: int, race: Callable[..., dict[str, float]]) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one = curvature(width, device=device, dtype=torch.float32)
    stack = one * torch.linspace(0.5, 2, count, device=device)[:, None, None]

    def damped() -> Tensor:
        shift = 0.01 * stack.diagonal(dim1=1, dim2=2).mean(1)
        return stack + shift[:, None, None] * torch.eye(width, device=device)

    found = hk.inverse_hessian(stack).matrix
    assert isinstance(found, Tensor)
    assert relative_error(found, torch.linalg.inv(damped().double())) < 1e-4
    race(
        f"inverse_hessian {count} x {width}",
        {
            "inverse_hessian": lambda: hk.inverse_hessian(stack),
            "linalg.inv": lambda: torch.linalg.inv(damped()),
            "bare cholesky + cholesky_inverse": lambda: torch.cholesky_inverse(
                torch.linalg.cholesky_ex(damped())[0]
            ),
        },
        rounds=5,
    )
