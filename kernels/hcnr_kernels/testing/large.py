"""Seeded inputs of every operator, one each, large enough to be worth timing."""

import torch
from torch import Tensor

from hcnr_kernels.testing.inputs import Sample
from hcnr_kernels.testing.tensors import alternate, curvature, packed, randn, weights


def _large_packed(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes of the published CPU comparison: hidden 512, 32 samples of 128 tokens."""
    return packed((128,) * 32, 512, 1376, device, dtype)


def fisher_output(device: str, dtype: torch.dtype) -> Sample:
    """Output axis, 512 -> 1376."""
    arguments = (torch.zeros(1376, device=device), *_large_packed(device, dtype))
    return Sample("32 x 128 tokens, 512 -> 1376", arguments, {})


def fisher_input(device: str, dtype: torch.dtype) -> Sample:
    """Input axis, 512 -> 1376."""
    arguments = (torch.zeros(512, device=device), *_large_packed(device, dtype))
    return Sample("32 x 128 tokens, 512 -> 1376", arguments, {})


def fisher_both(device: str, dtype: torch.dtype) -> Sample:
    """Both axes, 512 -> 1376."""
    scores = (torch.zeros(1376, device=device), torch.zeros(512, device=device))
    arguments = (*scores, *_large_packed(device, dtype))
    return Sample("32 x 128 tokens, 512 -> 1376", arguments, {})


def fisher_weight(device: str, dtype: torch.dtype) -> Sample:
    """Element-wise, 512 -> 1376."""
    arguments = (torch.zeros(1376, 512, device=device), *_large_packed(device, dtype))
    return Sample("32 x 128 tokens, 512 -> 1376", arguments, {})


def token_gram(device: str, dtype: torch.dtype) -> Sample:
    """Width 512."""
    x, _, cu_seqlens = _large_packed(device, dtype)
    return Sample("32 x 128 tokens, 512", (x, cu_seqlens), {"max_seqlen": 128})


def gram(device: str, dtype: torch.dtype) -> Sample:
    """Width 1376."""
    x = randn(4096, 1376, device=device, dtype=dtype)
    return Sample("4096 tokens, 1376", (torch.zeros(1376, 1376, device=device), x), {})


def symmetrize(device: str, dtype: torch.dtype) -> Sample:
    """Width 4096."""
    return Sample("4096", (randn(4096, 4096, device=device, dtype=dtype),), {})


def perturbation(device: str, dtype: torch.dtype) -> Sample:
    """Both weights 32 MB or more."""
    base, tuned = weights(2048, 4096, device, dtype)
    return Sample("2048 x 4096", (base, tuned, alternate(2048, device)), {"axis": "output"})


def inverse_hessian(device: str, dtype: torch.dtype) -> Sample:
    """Width 1024."""
    return Sample("1024", (curvature(1024, device=device, dtype=dtype),), {})


def compensation(device: str, dtype: torch.dtype) -> Sample:
    """The published kind, 1024 neurons."""
    delta = randn(1024, 512, device=device, dtype=dtype)
    hessian = curvature(1024, device=device, dtype=dtype)
    kwargs = {"axis": "output", "kind": "sum"}
    return Sample("sum, 1024 x 512", (delta, alternate(1024, device), hessian), kwargs)


def objective(device: str, dtype: torch.dtype) -> Sample:
    """1024 neurons."""
    hessian = curvature(1024, device=device, dtype=dtype)
    deviation = randn(512, 1024, device=device, dtype=dtype)
    return Sample("512 x 1024", (deviation, hessian), {"axis": "input"})


def objectives(device: str, dtype: torch.dtype) -> Sample:
    """1024 neurons, half of them restored."""
    args, kwargs = objective(device, dtype)[1:]
    return Sample("512 x 1024", (args[0], alternate(1024, device), args[1]), kwargs)


def merge(device: str, dtype: torch.dtype) -> Sample:
    """Both weights 32 MB or more."""
    base, tuned = weights(2048, 4096, device, dtype)
    deviation = randn(2048, 4096, device=device, dtype=torch.float32)
    args = (base, tuned, alternate(2048, device), deviation)
    return Sample("2048 x 4096", args, {"axis": "output", "dtype": dtype})
