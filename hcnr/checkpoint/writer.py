"""A copy of a checkpoint's weights in which some tensors are replaced, at the speed of a copy."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hcnr.cache import fsync
from hcnr.checkpoint.fingerprints import byte_view
from hcnr.checkpoint.headers import Shard, TensorInfo
from hcnr.checkpoint.layout import INDEX, SINGLE
from hcnr.checkpoint.reader import Checkpoint
from hcnr.errors import CheckpointError, OutputError

# Small enough that progress moves and Ctrl-C is heard, large enough that calls do not count.
CHUNK_BYTES = 32 << 20

# What a kernel or file system answers when it cannot copy by itself between two files.
_NO_KERNEL_COPY = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
)

Progress = Callable[[int], None]
Replacement = Callable[[str], torch.Tensor | None] | Mapping[str, Callable[[], torch.Tensor]]


def write_weights(
    tuned: Checkpoint,
    directory: Path,
    replacement: Replacement,
    progress: Progress | None = None,
) -> int:
    """Writes tuned's weight files, with its shard map and headers, replacing some tensors.

    Whatever is not replaced is copied byte for byte. Replacements are asked for in file order, one
    at a time, so one of them is in memory at once.

    Args:
        tuned: The checkpoint to copy.
        directory: An existing directory, usually from `output_directory`.
        replacement: Gives the new tensor of a name, or None to keep the stored one; or a mapping of
            the names to replace to functions without arguments. A new tensor has the stored dtype
            and shape and may live on any device.
        progress: Called with the bytes just written, which add up to `tuned.nbytes` (the index is
            left out).

    Returns:
        Bytes written, the index included.

    Raises:
        CheckpointError: A replacement has another dtype or shape, names no tensor, or the
            checkpoint changed since it was opened.
        OutputError: A file cannot be written.
    """
    ask = _asker(tuned, replacement)
    total = 0
    for shard in tuned.shards:
        total += _write_shard(shard, directory / shard.file.name, ask, progress)
    if tuned.shards[0].file.name != SINGLE:
        total += _write_index(tuned.path / INDEX, directory / INDEX)
    fsync(directory)
    return total


def _asker(tuned: Checkpoint, replacement: Replacement) -> Callable[[str], torch.Tensor | None]:
    if not isinstance(replacement, Mapping):
        return replacement
    for name in replacement:
        tuned.info(name)

    def ask(name: str) -> torch.Tensor | None:
        return replacement[name]() if name in replacement else None

    return ask


def _write_shard(
    shard: Shard,
    target: Path,
    ask: Callable[[str], torch.Tensor | None],
    progress: Progress | None,
) -> int:
    with _source(shard.file) as source, _Target(target, progress) as out:
        status = os.fstat(source)
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
            raise CheckpointError(
                f"'{shard.file}' changed since it was opened: leave the checkpoint alone while it "
                "is in use, and run it again."
            )
        for info in shard.tensors:
            tensor = ask(info.name)
            if tensor is not None:
                check_replacement(info, tensor)
                # The run of untouched bytes, the header among them, up to this tensor.
                out.copy(source, info.begin, shard.file)
                out.write(byte_view(tensor))
        out.copy(source, shard.size, shard.file)
        return out.position


def _write_index(index: Path, target: Path) -> int:
    with _source(index) as source, _Target(target, None) as out:
        out.copy(source, os.fstat(source).st_size, index)
        return out.position


def check_replacement(info: TensorInfo, tensor: torch.Tensor) -> None:
    """Raises CheckpointError unless a new tensor has the stored dtype and shape."""
    if (tensor.dtype, tuple(tensor.shape)) != (info.dtype, info.shape):
        raise CheckpointError(
            f"The replacement of {info.name!r} is {tensor.dtype} {list(tensor.shape)}, and "
            f"{info.dtype} {list(info.shape)} was expected: convert it before writing."
        )


@contextlib.contextmanager
def _source(file: Path) -> Iterator[int]:
    """Yields a descriptor; what fails to be read is the checkpoint's fault, not the output's."""
    try:
        with file.open("rb", buffering=0) as handle:
            yield handle.fileno()
    except OutputError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"Cannot read '{file}' ({error.strerror or error}): leave the checkpoint alone while "
            "it is in use, and run it again."
        ) from error


class _Target:
    """A file that grows in step with the file it is a copy of, and is on the disk when closed."""

    def __init__(self, path: Path, progress: Progress | None):
        self._path = path
        self._progress = progress
        self._kernel_copy = hasattr(os, "copy_file_range")
        self.position = 0

    def __enter__(self) -> "_Target":
        self._fd = self._guard(os.open, self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._guard(os.fsync, self._fd)
        finally:
            os.close(self._fd)

    def write(self, view: memoryview) -> None:
        """Writes bytes at the end."""
        while view:
            # At an offset of our own: a copy in the kernel does not move the file's.
            done = self._guard(os.pwrite, self._fd, view[:CHUNK_BYTES], self.position)
            view = view[done:]
            self._advance(done)

    def copy(self, source: int, end: int, name: Path) -> None:
        """Copies the source's bytes from our own position up to `end`."""
        while self.position < end:
            count = min(CHUNK_BYTES, end - self.position)
            if self._kernel_copy:
                done = self._copy_in_kernel(source, count)
                if done:
                    self._advance(done)
                    continue
                # Some file systems answer 0 although there is more: let read decide.
                self._kernel_copy = False
            chunk = os.pread(source, min(count, 1 << 20), self.position)
            if not chunk:
                raise CheckpointError(
                    f"'{name}' ended at byte {self.position} of {end} while it was copied: leave "
                    "the checkpoint alone while it is in use, and run it again."
                )
            self.write(memoryview(chunk))

    def _copy_in_kernel(self, source: int, count: int) -> int:
        try:
            return os.copy_file_range(source, self._fd, count, self.position, self.position)
        except OSError as error:
            if error.errno in _NO_KERNEL_COPY:
                return 0
            raise self._explained(error) from error

    def _advance(self, count: int) -> None:
        self.position += count
        if self._progress is not None:
            self._progress(count)

    def _guard(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> OutputError:
        return OutputError(
            f"Cannot write '{self._path}' ({error.strerror or error}): free some space or choose "
            "another output directory."
        )
