"""Writing a patch: the least that makes one checkpoint of another; see `patch_form`."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from hcnr.checkpoint.copying import WRITE_BYTES
from hcnr.checkpoint.fingerprints import byte_view
from hcnr.checkpoint.patch_form import (
    FORMAT,
    Form,
    bits,
    digest_of,
    entry,
    is_ambiguous,
    keys,
    own_digest,
    together,
)
from hcnr.checkpoint.patches import Patch, Progress
from hcnr.checkpoint.reader import Checkpoint
from hcnr.checkpoint.writer import check_replacement
from hcnr.directories import PATCH
from hcnr.errors import CheckpointError, HcnrError, OutputError

__all__ = ["write_patch"]


class Piece(NamedTuple):
    """What is kept of one tensor: values, and the mask that says where they go."""

    form: Form
    values: Tensor
    mask: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.values.nbytes + (0 if self.mask is None else self.mask.nbytes)


def write_patch(
    tuned: Checkpoint,
    directory: Path,
    replacement: Callable[[str], Tensor | None],
    *,
    name: str,
    progress: Progress | None = None,
) -> Patch:
    """Write what new tensors change of a checkpoint.

    Every tensor of the checkpoint is read once. One is in memory at a time, beside the masks of
    those before.

    Args:
        tuned: the checkpoint that the patch is put on.
        directory: an existing directory.
        replacement: gives the new tensor of a name, on any device, or None to keep the stored one.
        name: what messages call the checkpoint.
        progress: called with the bytes of tuned that were just gone through.

    Returns:
        The patch that was written.

    Raises:
        CheckpointError: a replacement has another dtype or shape, or the checkpoint cannot be read
            or changed since it was opened, or has a tensor whose name a patch keeps for itself.
        OutputError: the file cannot be written.
    """
    if reserved := [key for key in tuned.tensors if is_ambiguous(key)]:
        raise CheckpointError(
            f"the checkpoint '{tuned.path}' has a tensor {reserved[0]!r}, a name under which a "
            "patch holds part of another tensor; write the whole checkpoint (--out-format full)"
        )
    parts: list[bytes] = []

    def pieces() -> Iterator[tuple[str, Piece]]:
        # Wide dtypes first; order in the file otherwise.
        for info in sorted(tuned.tensors.values(), key=lambda one: -one.dtype.itemsize):
            before = tuned.load(info.name)
            parts.append(digest_of(info, before))
            after = replacement(info.name)
            if after is not None:
                check_replacement(info, after)
                piece = _smallest(before, after.detach().cpu())
                if piece is not None:
                    yield info.name, piece
            if progress is not None:
                progress(info.nbytes)

    facts = {
        "format": "pt",
        "hcnr_patch": FORMAT,
        "tuned": name,
        "tuned_fingerprint": tuned.fingerprint(tuned.tensors),
    }
    file = directory / PATCH
    room = sum(2 * len(json.dumps(key)) + 64 * len(i.shape) for key, i in tuned.tensors.items())
    room += 400 * len(tuned.tensors) + 2 * len(json.dumps(facts)) + 1024
    try:
        with file.open("xb") as out:
            _write(out, pieces(), room, lambda: {**facts, "tuned_sha256": together(parts)})
    except OSError as error:
        if isinstance(error, HcnrError):
            raise
        raise OutputError(
            f"cannot write '{file}' ({error.strerror or error}); free some space or choose another "
            "output directory"
        ) from error
    tuned.check_unchanged()
    return Patch.open(directory)


def _write(
    out: BinaryIO,
    pieces: Iterable[tuple[str, Piece]],
    room: int,
    facts: Callable[[], dict[str, str]],
) -> None:
    """Data behind a header's room, as only they say what the header holds; then the header."""
    room += -room % 8
    data, position = hashlib.sha256(), 0
    entries: dict[str, dict[str, Any]] = {}
    masks: dict[str, Tensor] = {}
    out.seek(8 + room)

    def put(name: str, tensor: Tensor) -> None:
        nonlocal position
        view = byte_view(tensor)
        for begin in range(0, len(view), WRITE_BYTES):
            part = view[begin : begin + WRITE_BYTES]
            out.write(part)
            data.update(part)
        entries[name] = entry(tensor.dtype, tensor.shape, position, position + len(view))
        position += len(view)

    for name, piece in pieces:
        values, mask = keys(name, piece.form)
        put(values, piece.values)
        if piece.mask is not None:
            masks[mask] = piece.mask
    for name, mask in masks.items():
        put(name, mask)
    about = facts()
    about["sha256"] = own_digest(data.digest(), entries, about)
    header = json.dumps({"__metadata__": about, **entries}).encode()
    assert len(header) <= room
    out.truncate(8 + room + position)
    out.seek(0)
    out.write(room.to_bytes(8, "little") + header.ljust(room))


def _smallest(before: Tensor, after: Tensor) -> Piece | None:
    """The least that makes one tensor of the other; None where no bit differs."""
    differs = bits(before) != bits(after)
    if not bool(differs.any()):
        return None
    best = Piece("whole", after.contiguous(), None)
    if after.dim() < 2:
        return best
    forms: tuple[tuple[Form, int, Tensor], ...] = (
        ("rows", -1, after), ("columns", -2, after.transpose(-1, -2)),
    )  # fmt: skip
    for form, along, view in forms:
        mask = differs.any(along)
        nbytes = int(mask.sum()) * view.shape[-1] * after.element_size() + mask.numel()
        if nbytes < best.nbytes:
            best = Piece(form, bits(view)[mask].view(after.dtype), mask)
    return best
