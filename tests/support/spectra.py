"""Problems of method.md (10) in float64, and the dense Kronecker system that they mean."""

from typing import Any

import torch
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.testing.tensors import randn

F64 = torch.float64
Quartet = tuple[Tensor, Tensor, Tensor, Tensor]
"""A_h, G_h, A_t, G_t."""


def normal(*shape: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    return randn(*shape, device="cpu", dtype=dtype, seed=seed)


def moment(tokens: int, width: int, seed: int, decay: float = 0.0) -> Tensor:
    """Second moment of tokens whose size falls as `i^-decay` along random directions."""
    basis = torch.linalg.qr(normal(width, width, seed=seed + 100))[0]
    rows = normal(tokens, width, seed=seed) * torch.arange(1, width + 1).double() ** -decay
    rows = rows @ basis.T
    return rows.T @ rows / tokens


def problem(out: int, width: int, tokens: int = 60, decay: float = 0.0) -> tuple[Tensor, Quartet]:
    moments = (
        moment(tokens, width, 1, decay),
        moment(tokens, out, 2, decay),
        moment(tokens, width, 3, decay),
        moment(tokens, out, 4, decay),
    )
    return normal(out, width, seed=5), moments


def basis_of(delta: Tensor, quartet: Quartet, **options: Any) -> hk.SpectralBasis:
    inputs, outputs, task_inputs, task_outputs = quartet
    return hk.spectral_basis(delta, (inputs, outputs), (task_inputs, task_outputs), **options)


def damped(matrix: Tensor, damping: float = 0.01) -> Tensor:
    mean = matrix.diagonal().mean()
    matrix = matrix / mean if mean else matrix
    return matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype)


def kronecker(quartet: Quartet, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """The curvatures of row-major `vec(E)` on the honesty and on the task data."""
    inputs, outputs, task_inputs, task_outputs = (damped(one, damping) for one in quartet)
    return torch.kron(outputs, inputs), torch.kron(task_outputs, task_inputs)
