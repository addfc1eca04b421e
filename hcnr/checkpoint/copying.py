"""A file that grows in step with the one it is a copy of, parts of it replaced."""

import contextlib
import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnr.cache import fsync
from hcnr.checkpoint.fingerprints import byte_view
from hcnr.checkpoint.headers import Shard
from hcnr.errors import CheckpointError, OutputError

# Small enough that progress moves and Ctrl-C is heard, large enough that calls do not count.
CHUNK_BYTES = 32 << 20
# Of one call that writes: of 32 MiB a byte took twice the processor's time on ext4 (Linux 6.18).
WRITE_BYTES = 2 << 20
# Of one call, which takes 1024 by POSIX: with so many objects Python looks for garbage each time.
_MOST_PIECES = 256

# What a kernel or file system answers when it cannot copy by itself between two files.
_NO_KERNEL_COPY = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
)

# What it answers when there is no room; whatever else it answers, bytes can be written one by one.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, eq=False)
class Spliced:
    """`other`'s rows where the mask says so, `own`'s elsewhere.

    Attributes:
        own: `[rows, ...]`, on the CPU.
        other: of the same shape and dtype, on the CPU.
        mask: bool `[rows]`, on the CPU.
    """

    own: torch.Tensor
    other: torch.Tensor
    mask: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of both."""
        return self.own.dtype

    @property
    def shape(self) -> torch.Size:
        """Shape of both."""
        return self.own.shape

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of the whole, in order: runs of rows, each where it lies."""
        sources = byte_view(self.own), byte_view(self.other)
        rows = self.mask.shape[0]
        width = len(sources[0]) // rows if rows else 0
        turns = (self.mask[1:] != self.mask[:-1]).nonzero().squeeze(1) + 1
        edges = [0, *turns.tolist(), rows]
        which = bool(self.mask[0]) if rows else False
        for begin, end in itertools.pairwise(edges):
            yield sources[which][begin * width : end * width]
            which = not which


def _batches(pieces: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """As many pieces as one call may write, a long one in parts."""
    batch: list[memoryview] = []
    size = 0
    for piece in pieces:
        # Most are a few rows, of which there are tens of thousands in a large file.
        if (fits := size + len(piece)) <= WRITE_BYTES and len(batch) < _MOST_PIECES:
            batch.append(piece)
            size = fits
            continue
        while piece:
            if size == WRITE_BYTES or len(batch) == _MOST_PIECES:
                yield batch
                batch, size = [], 0
            part = piece[: WRITE_BYTES - size]
            batch.append(part)
            size += len(part)
            piece = piece[len(part) :]
    if batch:
        yield batch


def _left_of(pieces: list[memoryview], done: int) -> list[memoryview]:
    """What is to be written yet of pieces of which the first `done` bytes are."""
    if done == sum(map(len, pieces)):
        return []
    for index, piece in enumerate(pieces):
        if done < len(piece):
            return [piece[done:], *pieces[index + 1 :]]
        done -= len(piece)
    return []


def _set_aside(descriptor: int, size: int) -> None:
    """Have the file system keep room for a file, where it can.

    A disk that is too small says so before a byte is written, and new pages of the file cost less.
    Not `os.posix_fallocate`: where the file system cannot, it writes to every block.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if call is None or not size:
        return
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, 0, 0, size) and (code := ctypes.get_errno()) in _NO_ROOM:
        raise OSError(code, os.strerror(code))


class Copy:
    """A file that grows in step with the file it is a copy of.

    A context, which closes both whatever has happened.
    """

    def __init__(
        self, source: Path, target: Path, advance: Callable[[int], None] | None = None
    ) -> None:
        self._source, self._target = source, target
        self._advance_by = advance
        self._kernel_copy = hasattr(os, "copy_file_range")
        self._open = contextlib.ExitStack()
        self.position = 0

    def __enter__(self) -> "Copy":
        with self._open:
            self._from = self._read(self._opened)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._to: int = self._write(os.open, self._target, flags, 0o666)
            self._open.callback(os.close, self._to)
            # Kept open: what is left at the end of this block is a stack that closes nothing.
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both files, once."""
        self._open.close()

    def _opened(self) -> int:
        return self._open.enter_context(self._source.open("rb", buffering=0)).fileno()

    @property
    def size(self) -> int:
        """Bytes of the source."""
        return os.fstat(self._from).st_size

    def check_unchanged(self, shard: Shard) -> None:
        """Refuse a source that is not what it was when its header was read."""
        shard.check_unchanged(os.fstat(self._from))

    def set_aside(self) -> None:
        """Have room for as many bytes as the source has.

        Raises:
            OutputError: there is none.
        """
        self._write(_set_aside, self._to, self.size)

    def replace(self, begin: int, pieces: Iterable[memoryview]) -> None:
        """Copy the untouched bytes up to `begin`, the header among them; then write others."""
        self._copy(begin)
        for batch in _batches(pieces):
            self._put(batch)

    def finish(self, end: int) -> None:
        """Copy the rest and close both files."""
        self._copy(end)
        self.close()

    def sync(self) -> None:
        """Wait until the copy is on the disk."""
        self._write(fsync, self._target)

    def _put(self, pieces: list[memoryview]) -> None:
        """Write bytes at the end, which lie at several places."""
        while pieces:
            # At an offset of our own: a copy in the kernel does not move the file's.
            if len(pieces) == 1 or not hasattr(os, "pwritev"):
                done = self._write(os.pwrite, self._to, pieces[0], self.position)
            else:
                done = self._write(os.pwritev, self._to, pieces, self.position)
            self._advance(done)
            pieces = _left_of(pieces, done)

    def _copy(self, end: int) -> None:
        """Copy the source's bytes from our own position up to `end`."""
        while self.position < end:
            count = min(CHUNK_BYTES, end - self.position)
            if self._kernel_copy:
                done = self._copy_in_kernel(count)
                if done:
                    self._advance(done)
                    continue
                # Some file systems answer 0 although there is more: let read decide.
                self._kernel_copy = False
            chunk = self._read(os.pread, self._from, min(count, 1 << 20), self.position)
            if not chunk:
                raise CheckpointError(
                    f"'{self._source}' ended at byte {self.position} of {end} while it was copied; "
                    "leave the checkpoint alone while it is in use, and run it again"
                )
            self._put([memoryview(chunk)])

    def _copy_in_kernel(self, count: int) -> int:
        try:
            return os.copy_file_range(self._from, self._to, count, self.position, self.position)
        except OSError as error:
            if error.errno in _NO_KERNEL_COPY:
                return 0
            raise self._explained(error) from error

    def _advance(self, count: int) -> None:
        self.position += count
        if self._advance_by is not None:
            self._advance_by(count)

    def _read(self, call: Callable[..., Any], *arguments: object) -> Any:
        """What fails to be read is the checkpoint's fault, not the output's."""
        try:
            return call(*arguments)
        except OSError as error:
            raise CheckpointError(
                f"cannot read '{self._source}' ({error.strerror or error}); leave the checkpoint "
                "alone while it is in use, and run it again"
            ) from error

    def _write(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> CheckpointError | OutputError:
        if error.errno == errno.EFAULT:
            # Bytes that were handed over are mapped from a file that has been cut since.
            return CheckpointError(
                f"a weight file was cut while '{self._target.name}' was made of it; leave the "
                "checkpoints alone while they are in use, and run it again"
            )
        return OutputError(
            f"cannot write '{self._target}' ({error.strerror or error}); free some space or choose "
            "another output directory"
        )
