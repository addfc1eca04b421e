"""A patch: what differs from a checkpoint, in one safetensors file that is put back onto it.

`hcnr_patch.safetensors` holds, for every tensor `[..., n, d]` that differs, under its stored name

- `NAME#rows` `[k, d]` and `NAME#rows.mask` (bool `[..., n]`): `tensor[mask] = rows`; or
- `NAME#columns` `[k, n]` and `NAME#columns.mask` (bool `[..., d]`):
  `tensor.transpose(-1, -2)[mask] = columns`; or
- `NAME`: all of it, where neither is smaller.

Bits are compared, in the stored dtype, and k is what the mask selects. The metadata name the
checkpoint that it belongs to (`tuned`), its fingerprint, a SHA-256 over all of its tensors, and one
over the patch itself. Values stand before masks, wide dtypes before narrow ones, so that every
tensor lies where its dtype may be read without a copy.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hcnr.checkpoint.fingerprints import byte_view
from hcnr.checkpoint.headers import DTYPES, TensorInfo

__all__ = [
    "FORMAT",
    "Form",
    "bits",
    "digest_of",
    "entry",
    "is_ambiguous",
    "keys",
    "own_digest",
    "together",
]

Form = Literal["rows", "columns", "whole"]
"""How a tensor is held."""

FORMAT = "1"
"""Of the file; another one is refused."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keys(name: str, form: Form) -> tuple[str, str]:
    """Under which names a patch holds values and mask of a tensor."""
    return (name, "") if form == "whole" else (f"{name}#{form}", f"{name}#{form}.mask")


def is_ambiguous(name: str) -> bool:
    """Whether a tensor's own name is one under which a patch holds part of another tensor."""
    return name.endswith(("#rows", "#columns", "#rows.mask", "#columns.mask"))


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers, which are equal where every bit is."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def entry(dtype: torch.dtype, shape: Iterable[int], begin: int, end: int) -> dict[str, Any]:
    """What a header says of a tensor; offsets count from the end of the header."""
    return {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}


def digest_of(info: TensorInfo, tensor: Tensor) -> bytes:
    """SHA-256 of a tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps([info.name, _NAMES[info.dtype], *info.shape]).encode())
    digest.update(byte_view(tensor))
    return digest.digest()


def together(parts: Iterable[bytes]) -> str:
    """SHA-256 of all tensors' digests, in whatever order and files they lie."""
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def own_digest(data: bytes, entries: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """SHA-256 of a patch: of its data's, its header's entries and all metadata but itself."""
    about = [{key: value for key, value in facts.items() if key != "sha256"}, entries]
    return hashlib.sha256(data + json.dumps(about, sort_keys=True).encode()).hexdigest()
