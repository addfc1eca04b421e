"""Seeded tensors: the same on every device and in every run."""

import torch
from torch import Tensor

RAGGED = (7, 0, 1, 63, 17)
"""Tokens per sample: an empty one, a single token, none a multiple of a tile."""


def randn(*shape: int, device: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal numbers that depend on the seed only, not on the device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)


def offsets(lengths: tuple[int, ...], device: str) -> Tensor:
    """`cu_seqlens` of samples of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)


def curvature(neurons: int, *, device: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A positive definite H with correlated neurons and a spread of scales."""
    tokens = randn(4 * neurons + 8, neurons, device="cpu", dtype=torch.float64, seed=seed)
    mixing = randn(neurons, neurons, device="cpu", dtype=torch.float64, seed=seed + 1)
    scales = torch.logspace(-1, 0, neurons, dtype=torch.float64)
    tokens = (tokens + tokens @ mixing / neurons**0.5) * scales
    return (tokens.T @ tokens / len(tokens)).to(device=device, dtype=dtype)


def alternate(neurons: int, device: str) -> Tensor:
    """A mask of about half the neurons, no regular pattern."""
    return (randn(neurons, device="cpu", dtype=torch.float32, seed=9) > 0).to(device)


def padded(
    lengths: tuple[int, ...], in_features: int, out_features: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, output gradients, offsets and used rows; NaN in the rows that no sample uses."""
    room = [length + 2 + 3 * (place % 2) for place, length in enumerate(lengths)]
    cu_seqlens = offsets(tuple(room), device) + 4
    tokens = sum(room) + 9
    x = randn(tokens, in_features, device=device, dtype=dtype, seed=1)
    g = randn(tokens, out_features, device=device, dtype=dtype, seed=2)
    unused = torch.ones(tokens, dtype=torch.bool)
    for start, length in zip(cu_seqlens.tolist(), lengths, strict=False):
        unused[start : start + length] = False
    x[unused.to(device)] = torch.nan
    g[unused.to(device)] = torch.nan
    return x, g, cu_seqlens, torch.tensor(lengths, dtype=torch.int32, device=device)


def packed(
    lengths: tuple[int, ...], in_features: int, out_features: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, output gradients and offsets."""
    tokens = sum(lengths)
    x = randn(tokens, in_features, device=device, dtype=dtype, seed=1)
    g = randn(tokens, out_features, device=device, dtype=dtype, seed=2)
    return x, g, offsets(lengths, device)


def weights(
    out_features: int, in_features: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Base weights and the same after a change of a tenth."""
    base = randn(out_features, in_features, device=device, dtype=torch.float32, seed=5)
    change = randn(out_features, in_features, device=device, dtype=torch.float32, seed=6)
    return base.to(dtype), (base + 0.1 * change).to(dtype)
