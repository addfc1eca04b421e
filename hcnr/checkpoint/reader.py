"""Checkpoints in the Hugging Face layout, opened lazily."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from hcnr.checkpoint.fingerprints import LazyRows, fingerprint
from hcnr.checkpoint.headers import Shard, TensorInfo
from hcnr.checkpoint.layout import find_shards, read_config
from hcnr.checkpoint.views import mapped_values
from hcnr.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A directory of safetensors weights with its `config.json`; tensors are read when asked for.

    Attributes:
        path: the directory, absolute.
        config: the content of `config.json`.
        shards: the weight files in the order of their names, headers checked.
        tensors: name to `TensorInfo`, in file order.
    """

    path: Path
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a checkpoint and check all of its headers; read no weight.

        Args:
            path: a directory with `config.json` and `model.safetensors`, or shards with
                `model.safetensors.index.json`. Symbolic links to files are followed.

        Returns:
            The opened checkpoint. It holds no open file.

        Raises:
            CheckpointError: there is no such checkpoint, its weights are not safetensors, or a file
                of it is malformed.
        """
        directory = Path(path).expanduser().absolute()
        try:
            config = read_config(directory)
            shards = find_shards(directory)
        except OSError as error:
            raise CheckpointError(
                f"cannot read the checkpoint '{directory}' ({error.strerror or error}); fix its "
                "path or its permissions"
            ) from error
        tensors: dict[str, TensorInfo] = {}
        for shard in shards:
            for info in shard.tensors:
                if info.name in tensors:
                    raise CheckpointError(
                        f"{info.name!r} is stored twice, in '{tensors[info.name].file}' and in "
                        f"'{info.file}'; save the checkpoint again"
                    )
                tensors[info.name] = info
        if not tensors:
            raise CheckpointError(f"'{directory}' holds no tensor at all; save it again")
        return cls(directory, config, shards, MappingProxyType(tensors))

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files, headers included: what writing a copy takes."""
        return sum(shard.size for shard in self.shards)

    def bytes_of(self, files: Collection[str] | None) -> int:
        """The same of some of them, by their names; of all where None is given."""
        return sum(s.size for s in self.shards if files is None or s.file.name in files)

    def check_unchanged(self, files: Collection[str] | None = None) -> None:
        """Refuse weights that were rewritten since: what was read before and after is mixed.

        Args:
            files: names of the weight files to look at; all by default.

        Raises:
            CheckpointError: one has another size or time than when it was opened, or is gone.
        """
        for shard in self.shards:
            if files is None or shard.file.name in files:
                shard.check_unchanged()

    @property
    def has_tied_embeddings(self) -> bool:
        """Whether the output head is the embedding matrix: the config says so, none is stored."""
        text = self.config.get("text_config")
        settings = [self.config, text if isinstance(text, dict) else {}]
        tied = any(setting.get("tie_word_embeddings") is True for setting in settings)
        heads = ("lm_head.weight", "embed_out.weight", "output.weight")
        return tied and not any(name.endswith(heads) for name in self.tensors)

    def info(self, name: str) -> TensorInfo:
        """Look a tensor up.

        Raises:
            CheckpointError: the checkpoint has no tensor of this name.
        """
        if name not in self.tensors:
            close = get_close_matches(name, self.tensors, 1)
            raise CheckpointError(
                f"'{self.path}' has no tensor {name!r}; name one of its {len(self.tensors)} "
                f"tensors{f', perhaps {close[0]!r}' if close else ''}"
            )
        return self.tensors[name]

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Returns:
            A fresh CPU tensor with the stored dtype and shape.

        Raises:
            CheckpointError: no such tensor, or its file can no longer be read.
        """
        info = self.info(name)
        buffer = torch.empty(info.nbytes, dtype=torch.uint8)
        read_into(info.file, [(info.begin, buffer)])
        return buffer.view(info.dtype).reshape(info.shape)

    def view(self, name: str) -> torch.Tensor:
        """One tensor where it lies, for what looks at each element by itself.

        Products may round otherwise than those of `load`, because it may lie at any address.

        Returns:
            A CPU tensor with the stored dtype and shape that is not to be written to; mapped from
            its file where that can be, otherwise as `load`.

        Raises:
            CheckpointError: as `load`.
        """
        info = self.info(name)
        values = mapped_values(info, info.begin, info.end)
        return self.load(name) if values is None else values.reshape(info.shape)

    def load_rows(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """Read some rows of one tensor, and no other byte of it.

        Args:
            name: name of the tensor.
            rows: indices along its first dimension, in any order; a scalar has one row.

        Returns:
            A fresh CPU tensor `[len(rows), *shape[1:]]` with the stored dtype.

        Raises:
            CheckpointError: no such tensor, no such row, or its file can no longer be read.
        """
        info = self.info(name)
        count, *row_shape = info.shape or (1,)
        outside = [row for row in rows if not 0 <= row < count]
        if outside:
            raise CheckpointError(
                f"{name!r} has the shape {list(info.shape)} and no row {outside[0]}; ask for rows "
                f"below {count}"
            )
        step = info.nbytes // count if count else 0
        buffer = torch.empty(len(rows), step, dtype=torch.uint8)
        pieces = [(info.begin + row * step, buffer[i]) for i, row in enumerate(rows)]
        read_into(info.file, pieces)
        return buffer.reshape(-1).view(info.dtype).reshape(len(rows), *row_shape)

    def fingerprint(self, names: Iterable[str]) -> str:
        """Fingerprint some of the weights; equals `fingerprint_tensors` of the same in memory.

        Args:
            names: tensor names, in any order.

        Returns:
            16 lower-case hexadecimal digits; see the function `fingerprint` for what they cover.

        Raises:
            CheckpointError: no such tensor, or its file can no longer be read.
        """
        return fingerprint((name, self.lazy_rows(name)) for name in names)

    def lazy_rows(self, name: str) -> LazyRows:
        """One tensor of which rows are read when asked for, as `fingerprint` takes it.

        Raises:
            CheckpointError: the checkpoint has no tensor of this name.
        """
        return _StoredRows(self.info(name))


class _StoredRows:
    """`LazyRows` of a tensor on disk."""

    def __init__(self, info: TensorInfo):
        self._info = info
        self.dtype = info.dtype
        self.shape = info.shape

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        width = (self.shape[-1] if self.shape else 1) * self.dtype.itemsize
        buffer = torch.empty(len(indices), width, dtype=torch.uint8)
        begin = self._info.begin
        read_into(self._info.file, [(begin + i * width, buffer[n]) for n, i in enumerate(indices)])
        return buffer.view(self.dtype)


def read_into(file: Path, pieces: Iterable[tuple[int, torch.Tensor]]) -> None:
    """Fill uint8 CPU tensors with the bytes of a file from the given offsets.

    Args:
        file: the file.
        pieces: pairs of an offset and a contiguous uint8 tensor.

    Raises:
        CheckpointError: the file cannot be read, or ends before a piece is full.
    """
    try:
        with file.open("rb", buffering=0) as handle:
            for offset, tensor in pieces:
                handle.seek(offset)
                # One call reads at most 2 GiB, so a large tensor takes several.
                view = tensor.numpy().data
                while view:
                    got = handle.readinto(view)
                    if not got:
                        raise CheckpointError(
                            f"'{file}' ended at byte {handle.tell()} although it was longer when "
                            "it was opened; leave the checkpoint alone while it is in use"
                        )
                    view = view[got:]
    except OSError as error:
        raise CheckpointError(
            f"cannot read '{file}' ({error.strerror or error}); check the disk and the permissions"
        ) from error
