"""Symmetric matrices that are hard to factorise, and how exact an inverse is."""

import torch
from torch import Tensor

from hcnr_kernels.testing.tensors import randn

F64 = torch.float64


def lower_only(matrix: Tensor) -> Tensor:
    """NaN above the diagonal: it must not be read."""
    return matrix.tril() + torch.full_like(matrix, torch.nan).triu(1)


def spectra(width: int, condition: float) -> dict[str, Tensor]:
    """Symmetric matrices of a condition, hard in different ways."""
    basis = torch.linalg.qr(randn(width, width, device="cpu", dtype=F64))[0]
    lowest = 1 / condition
    few = torch.full((width,), lowest, dtype=F64)
    few[: width // 4] = 1
    outlier = torch.full((width,), lowest, dtype=F64)
    outlier[0] = 1
    even = torch.logspace(0, torch.tensor(lowest).log10(), width, dtype=F64)
    index = torch.arange(width, dtype=F64)
    gaussian = torch.exp(-(((index[:, None] - index) / 4) ** 2))
    return {
        "even": basis @ even.diag() @ basis.T,
        "few": basis @ few.diag() @ basis.T,
        "one": basis @ outlier.diag() @ basis.T,
        "near": gaussian + lowest * float(torch.linalg.matrix_norm(gaussian, 2)) * torch.eye(width),
    }


def residual(matrix: Tensor, inverse: Tensor) -> float:
    """`|A P - I|` over `|A| |P|`."""
    norm = torch.linalg.matrix_norm
    product = matrix.double() @ inverse.double() - torch.eye(len(matrix))
    return float(norm(product) / (norm(matrix) * norm(inverse)))
