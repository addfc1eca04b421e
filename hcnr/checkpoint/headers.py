"""Safetensors headers, checked before a byte of tensor data is used.

A file is `u64 little-endian header length | JSON header | data`. Everything a header claims is
compared with the file that holds it, because a wrong offset would otherwise become a wrong weight.
"""

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnr.errors import CheckpointError

# Names of the format. Sub-byte types are left out: torch cannot slice them, and a checkpoint that
# holds them is quantised, which the method cannot repair anyway.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}

# The limit of the safetensors library: a file it cannot open is of no use to us either.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: name in the checkpoint, such as `model.layers.0.self_attn.q_proj.weight`.
        dtype: torch dtype of the stored elements.
        shape: sizes of the dimensions; empty for a scalar.
        file: the safetensors file that holds it.
        begin: offset of its first byte from the start of the file.
        end: offset just past its last byte.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


@dataclass(frozen=True)
class Shard:
    """One safetensors file whose header has been checked.

    Attributes:
        file: the file as named in the checkpoint directory (it may be a symbolic link).
        size: bytes of the file when it was opened.
        mtime_ns: its modification time then; with `size` it shows a file that changed since.
        data_begin: offset of the first data byte: the header lies before it.
        tensors: the tensors in file order.
        metadata: what the header says beside them, text by text.
    """

    file: Path
    size: int
    mtime_ns: int
    data_begin: int
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]

    def check_unchanged(self, status: os.stat_result | None = None) -> None:
        """Refuse a file that is not what it was when its header was read.

        Args:
            status: of the file as it was opened again; by default of what has its name now.

        Raises:
            CheckpointError: it has another size or time, or is gone.
        """
        try:
            present = self.file.stat() if status is None else status
        except OSError as error:
            raise CheckpointError(
                f"cannot read '{self.file}' any more ({error.strerror or error}); leave it alone "
                "while it is in use, and run it again"
            ) from error
        if (present.st_size, present.st_mtime_ns) != (self.size, self.mtime_ns):
            raise CheckpointError(
                f"'{self.file}' changed since it was opened; leave it alone while it is in use, "
                "and run it again"
            )


def read_header(file: Path) -> Shard:
    """Read and check the header of a safetensors file.

    Args:
        file: an existing path.

    Returns:
        The checked header; tensors tile the data section exactly, in file order.

    Raises:
        CheckpointError: the file is no regular file, is truncated, or its header is malformed.
    """
    try:
        # A pipe or a device would block or answer forever: look before opening.
        if not stat.S_ISREG(file.stat().st_mode):
            raise _malformed(file, "it is not a regular file")
        with file.open("rb") as handle:
            status = os.fstat(handle.fileno())
            raw = _raw_header(handle, file, status.st_size)
    except OSError as error:
        raise CheckpointError(
            f"cannot read '{file}' ({error.strerror or error}); complete the download or fix its "
            "permissions"
        ) from error
    entries = _parse_json(file, raw)
    metadata = _checked_metadata(file, entries.pop("__metadata__", None))
    data_begin = 8 + len(raw)
    tensors = [_tensor(file, data_begin, name, entry) for name, entry in entries.items()]
    tensors.sort(key=lambda info: (info.begin, info.end))
    _check_tiling(file, tensors, data_begin, status.st_size)
    return Shard(file, status.st_size, status.st_mtime_ns, data_begin, tuple(tensors), metadata)


def _malformed(file: Path, what: str) -> CheckpointError:
    # A hostile header can put megabytes into one name.
    what = what if len(what) <= 400 else f"{what[:400]}..."
    return CheckpointError(
        f"'{file}' is not a valid safetensors file: {what}; download or save it again"
    )


def _raw_header(handle: Any, file: Path, size: int) -> bytes:
    prefix = handle.read(8)
    if prefix == b"version ":
        raise CheckpointError(
            f"'{file}' is a Git LFS pointer of {size} bytes instead of weights; run `git lfs pull`"
        )
    if len(prefix) < 8:
        raise _malformed(file, f"it has {size} bytes, and the header length alone takes 8")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise _malformed(
            file, f"its header claims {length} bytes, and at most {MAX_HEADER_BYTES} are allowed"
        )
    if 8 + length > size:
        raise _malformed(
            file, f"its header claims {length} bytes, and only {size - 8} bytes follow (truncated)"
        )
    raw = handle.read(length)
    if len(raw) < length:
        raise _malformed(file, f"its header ends after {len(raw)} of {length} bytes")
    return raw


def _parse_json(file: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            # json keeps the last of two equal keys, other readers the first.
            if key in entries:
                raise ValueError(f"the key {key!r} appears twice")
            key.encode()
            entries[key] = value
        return entries

    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _malformed(file, f"its header is no JSON object ({error})") from error
    if not isinstance(header, dict):
        raise _malformed(file, f"its header is a JSON {type(header).__name__}, no object")
    return header


def _checked_metadata(file: Path, metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _malformed(file, "its __metadata__ does not map text to text")
    return metadata


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(file: Path, data_begin: int, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(file, f"the entry of {name!r} lacks exactly dtype, shape, data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _malformed(
            file,
            f"{name!r} has the dtype {entry['dtype']!r}, and known ones are {', '.join(DTYPES)}",
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise _malformed(file, f"{name!r} has the shape {shape!r}, no list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _malformed(file, f"{name!r} has the data_offsets {offsets!r}, no pair of offsets")
    # Sizes beside a zero still become strides in torch, so they must fit as well.
    if math.prod(size for size in shape if size) >= 2**63:
        raise _malformed(file, f"{name!r} has the impossible shape {shape!r}")
    begin, end = offsets
    expected = math.prod(shape) * dtype.itemsize
    if end - begin != expected:
        raise _malformed(
            file,
            f"{name!r} is {entry['dtype']} {shape}, {expected} bytes, and its data_offsets "
            f"{offsets} hold {end - begin}",
        )
    return TensorInfo(name, dtype, tuple(shape), file, data_begin + begin, data_begin + end)


def _check_tiling(file: Path, tensors: list[TensorInfo], data_begin: int, size: int) -> None:
    """Every data byte belongs to exactly one tensor, or bytes could hide or be read twice."""
    position = data_begin
    for info in tensors:
        if info.begin != position:
            what = "overlaps the tensor before it" if info.begin < position else "leaves a gap"
            raise _malformed(
                file,
                f"{info.name!r} {what}: it begins at data offset {info.begin - data_begin}, and "
                f"{position - data_begin} was expected",
            )
        position = info.end
    if position > size:
        raise _malformed(
            file, f"its tensors end at byte {position}, and the file at {size} (truncated)"
        )
    if position < size:
        raise _malformed(file, f"{size - position} bytes follow its last tensor")
