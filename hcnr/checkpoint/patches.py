"""Reading a patch and putting it on the checkpoint that it was made for; see `patch_form`."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hcnr.checkpoint.fingerprints import LazyRows, TensorRows
from hcnr.checkpoint.headers import Shard, TensorInfo, read_header
from hcnr.checkpoint.patch_form import (
    FORMAT,
    Form,
    bits,
    digest_of,
    entry,
    keys,
    own_digest,
    together,
)
from hcnr.checkpoint.reader import Checkpoint, read_into
from hcnr.directories import PATCH
from hcnr.errors import CheckpointError

__all__ = ["Patch", "PatchedCheckpoint", "PatchedTensor"]

Progress = Callable[[int], None]
_FACTS = ("hcnr_patch", "tuned", "tuned_fingerprint", "tuned_sha256", "sha256")
_MASKS = ("#rows.mask", "#columns.mask")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class PatchedTensor:
    """Where a patch holds what it changes of one tensor.

    Attributes:
        name: of the tensor in the checkpoint.
        form: how it is held.
        values: the changed rows, columns, or all of it.
        mask: which of them; None of a whole tensor.
    """

    name: str
    form: Form
    values: TensorInfo
    mask: TensorInfo | None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.values.nbytes + (0 if self.mask is None else self.mask.nbytes)

    @property
    def fits(self) -> bool:
        """Whether values and mask can belong together."""
        shape, mask = self.values.shape, self.mask
        return mask is None or (mask.dtype == torch.bool and len(shape) == 2 and bool(mask.shape))

    def belongs_to(self, info: TensorInfo) -> bool:
        """Whether this can be put on a tensor of that dtype and shape."""
        if self.values.dtype != info.dtype:
            return False
        if self.mask is None:
            return self.values.shape == info.shape
        if len(info.shape) < 2:
            return False
        *outer, rows, columns = info.shape
        kept, width = (rows, columns) if self.form == "rows" else (columns, rows)
        return self.mask.shape == (*outer, kept) and self.values.shape[1] == width


@dataclass(frozen=True, eq=False)
class Patch:
    """An opened patch; its values are read when they are asked for.

    Attributes:
        shard: the safetensors file, its header checked.
        facts: the metadata.
        tensors: by the name of the tensor that is changed.
    """

    shard: Shard
    facts: Mapping[str, str]
    tensors: Mapping[str, PatchedTensor]

    @classmethod
    def open(cls, directory: Path) -> "Patch":
        """Read and check the header.

        Raises:
            CheckpointError: there is no patch, or it is damaged.
        """
        file = directory / PATCH
        if not file.is_file():
            fault = (
                f"holds no patch (it has no {PATCH})" if directory.exists() else "does not exist"
            )
            raise CheckpointError(
                f"'{directory}' {fault}; name a directory that `hcnr restore --out-format patch` "
                "wrote; one of the hub is downloaded by `hf download OWNER/NAME --local-dir DIR`"
            )
        shard = read_header(file)
        facts = shard.metadata
        version = facts.get("hcnr_patch")
        if version is not None and version != FORMAT:
            raise CheckpointError(
                f"'{file}' is a patch of the format {version!r}, and {FORMAT!r} is read here; "
                "install the version of hcnr that wrote it"
            )
        missing = [key for key in _FACTS if key not in facts]
        if missing:
            raise CheckpointError(
                f"'{file}' is no patch (its metadata have no {missing[0]}); name a directory that "
                "`hcnr restore --out-format patch` wrote"
            )
        return cls(shard, facts, dict(_tensors(file, shard.tensors)))

    @property
    def file(self) -> Path:
        """The safetensors file."""
        return self.shard.file

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.shard.size

    def check_whole(self, progress: Progress | None = None) -> None:
        """Read the file once and compare its SHA-256 with what it says of itself.

        Raises:
            CheckpointError: it is damaged.
        """
        infos = [i for one in self.tensors.values() for i in (one.values, one.mask) if i]
        begin = min((info.begin for info in infos), default=self.nbytes)
        entries = {
            info.name: entry(info.dtype, info.shape, info.begin - begin, info.end - begin)
            for info in infos
        }
        data = hashlib.sha256()
        try:
            with self.file.open("rb") as handle:
                handle.seek(begin)
                while chunk := handle.read(_CHUNK):
                    data.update(chunk)
                    if progress is not None:
                        progress(len(chunk))
        except OSError as error:
            raise CheckpointError(
                f"cannot read '{self.file}' ({error.strerror or error}); check the disk and the "
                "permissions"
            ) from error
        if own_digest(data.digest(), entries, self.facts) != self.facts["sha256"]:
            raise _damaged(self.file, "its contents are not those of its SHA-256")

    def check_for(self, tuned: Checkpoint) -> None:
        """Compare names, shapes, dtypes and the fingerprint with a checkpoint; reads few rows.

        Raises:
            CheckpointError: it is another one than the patch was made for.
        """
        for name, part in self.tensors.items():
            info = tuned.tensors.get(name)
            if info is None:
                raise self._other(tuned, f"it changes {name!r}, which is not stored there")
            if not part.belongs_to(info):
                raise self._other(
                    tuned,
                    f"what it holds of {name!r} does not fit {_plain(info.dtype)} "
                    f"{list(info.shape)}",
                )
        actual, expected = tuned.fingerprint(tuned.tensors), self.facts["tuned_fingerprint"]
        if actual != expected:
            raise self._other(
                tuned, f"the fingerprint is {actual} there, and {expected} was expected"
            )

    def check_bits(self, tuned: Checkpoint, progress: Progress | None = None) -> None:
        """Read every tensor of a checkpoint once and compare the SHA-256 of all.

        Raises:
            CheckpointError: it differs from the one that the patch was made for.
        """
        parts = []
        for info in tuned.tensors.values():
            parts.append(digest_of(info, tuned.load(info.name)))
            if progress is not None:
                progress(info.nbytes)
        if together(parts) != self.facts["tuned_sha256"]:
            raise self._other(
                tuned, "some of its weights differ, although the rows of the fingerprint are equal"
            )

    def applied(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor with what the patch changes of it, in place where that is rows or columns.

        Args:
            name: of the tensor.
            tensor: as the checkpoint has it, on the CPU.

        Raises:
            CheckpointError: the patch is damaged.
        """
        part = self.tensors.get(name)
        if part is None:
            return tensor
        values = _load(part.values)
        if part.mask is None:
            return values
        mask = _load(part.mask)
        if int(mask.sum()) != values.shape[0]:
            raise _damaged(
                self.file, f"{len(values)} {part.form} of {name!r} have {int(mask.sum())} places"
            )
        # As integers: some dtypes of files have no indexing of their own.
        view = bits(tensor if part.form == "rows" else tensor.transpose(-1, -2))
        view[mask] = bits(values)
        return tensor

    def replacing(self, tuned: Checkpoint) -> Callable[[str], Tensor | None]:
        """What `write_weights` asks for: the new tensor of a name, None for what stays."""
        return lambda name: self.applied(name, tuned.load(name)) if name in self.tensors else None

    def _other(self, tuned: Checkpoint, why: str) -> CheckpointError:
        return CheckpointError(
            f"the patch '{self.file.parent}' was made for another TUNED "
            f"({self.facts['tuned']}) than '{tuned.path}': {why}; name the one that was restored, "
            "or restore again"
        )


class PatchedCheckpoint(Checkpoint):
    """A checkpoint as it is read with a patch on it; nothing is written."""

    patch: Patch

    @classmethod
    def of(cls, tuned: Checkpoint, patch: Patch) -> "PatchedCheckpoint":
        """Put a patch on a checkpoint that it was made for."""
        checkpoint = cls(tuned.path, tuned.config, tuned.shards, tuned.tensors)
        object.__setattr__(checkpoint, "patch", patch)
        return checkpoint

    def load(self, name: str) -> Tensor:
        """One tensor, patched."""
        return self.patch.applied(name, super().load(name))

    def view(self, name: str) -> Tensor:
        """The same; where the patch changes nothing, as it lies in its file."""
        return self.load(name) if name in self.patch.tensors else super().view(name)

    def load_rows(self, name: str, rows: Iterable[int]) -> Tensor:
        """Some rows of one tensor, patched; all of it is read."""
        return self.load(name)[list(rows)]

    def lazy_rows(self, name: str) -> LazyRows:
        """One patched tensor as `fingerprint` takes it."""
        return TensorRows(self.load(name))


def _tensors(file: Path, infos: Iterable[TensorInfo]) -> Iterator[tuple[str, PatchedTensor]]:
    """What a header lists, values and masks together.

    Raises:
        CheckpointError: one of the two is missing, or they do not fit each other.
    """
    stored = {info.name: info for info in infos}
    taken: set[str] = set()
    for key, values in stored.items():
        if key.endswith(_MASKS):
            continue
        name, _, end = key.rpartition("#")
        form: Form = "rows" if end == "rows" else "columns" if end == "columns" else "whole"
        name = key if form == "whole" else name
        mask = stored.get(keys(name, form)[1])
        part = PatchedTensor(name, form, values, mask)
        if name in taken or not part.fits or (form != "whole" and mask is None):
            raise _damaged(file, f"what it holds of {name!r} does not fit together")
        taken.add(name)
        yield name, part
    masked = {key.rpartition("#")[0] for key in stored if key.endswith(_MASKS)}
    if lost := masked - taken:
        raise _damaged(file, f"it has a mask of {min(lost)!r} and no values")


def _load(info: TensorInfo) -> Tensor:
    buffer = torch.empty(info.nbytes, dtype=torch.uint8)
    read_into(info.file, [(info.begin, buffer)])
    return buffer.view(info.dtype).reshape(info.shape)


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the patch '{file}' is damaged ({why}); copy it again")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
