"""A short name for the values of a set of weights, the same on disk and in memory."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

ROWS = 8
_CHUNK = 1 << 24
HEX_DIGITS = 16


class LazyRows(Protocol):
    """A weight of which single rows can be read; a row lies along the last dimension.

    A weight `[..., d]` has as many rows of d elements as its other dimensions make, in order; a
    vector or a number is one row.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the elements."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of the dimensions."""
        ...

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the rows at `indices` as a tensor `[len(indices), d]`."""
        ...


class TensorRows:
    """`LazyRows` of a tensor in memory, on any device; only the rows asked for are moved."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor.detach()
        self.dtype = tensor.dtype
        self.shape = tuple(tensor.shape)

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the rows at `indices` on the CPU."""
        flat = self._tensor.reshape(-1, self.shape[-1] if self.shape else 1)
        return flat[torch.tensor(indices, device=flat.device)].cpu()


def fingerprint(weights: Iterable[tuple[str, LazyRows]]) -> str:
    """Name the values of some weights by 16 hexadecimal digits.

    This is a fingerprint and no full hash: it is a SHA-256 over the name, dtype, shape and up to 8
    evenly spaced rows (the first and the last among them) of every matrix, over those of each of
    the matrices that a tensor `[n, ...]` is made of (experts), and over all of a vector. It tells
    checkpoints apart that were trained differently, at the cost of a few rows; it does not prove
    that every element is equal. The order of the weights does not matter, their dtype does: a
    model opened in another dtype than its checkpoint has another fingerprint.

    Args:
        weights: pairs of a name and something rows can be read from.

    Returns:
        16 lower-case hexadecimal digits.
    """
    digest = hashlib.sha256()
    # A model lists its parameters in another order than a file: the names decide.
    for name, weight in sorted(weights, key=lambda pair: pair[0]):
        shape = [int(size) for size in weight.shape]
        digest.update(json.dumps([name, str(weight.dtype), shape]).encode())
        if 0 not in shape:
            digest.update(byte_view(weight.rows(_chosen(shape))))
    return digest.hexdigest()[:HEX_DIGITS]


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Fingerprint weights in memory; equals `Checkpoint.fingerprint` of the same weights.

    Args:
        tensors: name to tensor (a parameter will do), on any device, of any strides.

    Returns:
        16 lower-case hexadecimal digits; see `fingerprint` for what they cover.
    """
    return fingerprint((name, TensorRows(tensor)) for name, tensor in tensors.items())


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What changes whenever a file does: name, bytes, times of its content and its entry in ns.

    The time of a file's content can be set, as unpacking and copying do; that of its entry cannot.

    Raises:
        OSError: one cannot be looked at.
    """
    statuses = ((file, file.stat()) for file in files)
    return [(str(f), one.st_size, one.st_mtime_ns, one.st_ctime_ns) for f, one in statuses]


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # numpy knows neither bfloat16 nor float8; as bytes it knows them all.
    return flat.view(torch.uint8).numpy().data


def _chosen(shape: Sequence[int]) -> list[int]:
    """Rows of a tensor that its fingerprint covers: some of each matrix that it is made of."""
    count, *inner = shape[:-1] if len(shape) > 2 else (1, *shape[:-1])
    height = math.prod(inner)
    return [which * height + row for which in range(count) for row in _spaced(height)]


def _spaced(count: int) -> list[int]:
    """Up to `ROWS` distinct indices of `range(count)`, the first and the last among them."""
    if count <= ROWS:
        return list(range(count))
    return [step * (count - 1) // (ROWS - 1) for step in range(ROWS)]
