"""A short name for the values of a set of weights, the same on disk and in memory."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

ROWS = 8
HEX_DIGITS = 16


class LazyRows(Protocol):
    """A weight of which single rows can be read."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the elements."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of the dimensions."""
        ...

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Returns the rows at `indices` as a tensor `[len(indices), ...]`."""
        ...


class TensorRows:
    """`LazyRows` of a tensor in memory, on any device; only the rows asked for are moved."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor.detach()
        self.dtype = tensor.dtype
        self.shape = tuple(tensor.shape)

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Returns the rows at `indices` on the CPU; a scalar counts as one row."""
        tensor = self._tensor if self._tensor.dim() else self._tensor.reshape(1)
        return torch.stack([tensor[index] for index in indices]).cpu()


def fingerprint(weights: Iterable[tuple[str, LazyRows]]) -> str:
    """Names the values of some weights by 16 hexadecimal digits.

    This is a fingerprint and no full hash: it is a SHA-256 over the name, dtype, shape and up to 8
    evenly spaced rows (the first and the last among them) of every weight. It tells checkpoints
    apart that were trained differently, at the cost of a few rows; it does not prove that every
    element is equal. The order of the weights does not matter, their dtype does: a model opened in
    another dtype than its checkpoint has another fingerprint.

    Args:
        weights: Pairs of a name and something rows can be read from.

    Returns:
        16 lower-case hexadecimal digits.
    """
    digest = hashlib.sha256()
    # A model lists its parameters in another order than a file: the names decide.
    for name, weight in sorted(weights, key=lambda pair: pair[0]):
        shape = [int(size) for size in weight.shape]
        digest.update(json.dumps([name, str(weight.dtype), shape]).encode())
        indices = _spaced(shape[0] if shape else 1)
        if indices and 0 not in shape:
            digest.update(byte_view(weight.rows(indices)))
    return digest.hexdigest()[:HEX_DIGITS]


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Fingerprints weights in memory; equals `Checkpoint.fingerprint` of the same weights.

    Args:
        tensors: Name to tensor (a parameter will do), on any device, of any strides.

    Returns:
        16 lower-case hexadecimal digits; see `fingerprint` for what they cover.
    """
    return fingerprint((name, TensorRows(tensor)) for name, tensor in tensors.items())


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Returns the bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # numpy knows neither bfloat16 nor float8; as bytes it knows them all.
    return flat.view(torch.uint8).numpy().data


def _spaced(count: int) -> list[int]:
    """Up to `ROWS` distinct indices of `range(count)`, the first and the last among them."""
    if count <= ROWS:
        return list(range(count))
    return [step * (count - 1) // (ROWS - 1) for step in range(ROWS)]
