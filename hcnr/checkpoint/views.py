"""Stored values where they lie: mapped from the kernel's cache of files, without a copy.

Reading into fresh memory costs several times as much as looking at bytes that the kernel has
already: every page of it is made first. What is mapped is the checkpoint's as long as it is used;
a file that somebody cuts meanwhile ends the process, as it does with every program that maps files.
"""

import errno
import mmap
import sys
from collections.abc import Iterator

import torch

from hcnr.checkpoint.headers import TensorInfo

WINDOW_BYTES = 64 << 20
"""Mapped at once where values are only passed through: what counts as memory of the process."""
_LEAST_BYTES = 1 << 16
"""Below it a call that reads costs less than one that maps."""
_MADV_POPULATE_READ = 22
"""Linux's number, which `mmap` does not have yet."""


def mapped_values(info: TensorInfo, begin: int, end: int) -> torch.Tensor | None:
    """The elements of a tensor between two offsets of its file, flat.

    Args:
        info: the tensor.
        begin: offset of the first element.
        end: offset behind the last one.

    Returns:
        A CPU tensor in the stored dtype, which may lie at any address and whose file is not changed
        by what is written to it; None where the bytes can be read only: few or misaligned ones,
        no address space, or a file that is not what it was.
    """
    if end - begin < _LEAST_BYTES or begin % info.dtype.itemsize:
        return None
    first = begin - begin % mmap.ALLOCATIONGRANULARITY
    try:
        with info.file.open("rb", buffering=0) as handle:
            # Of its own pages, so that torch takes it without a warning: nobody writes to them.
            area = mmap.mmap(handle.fileno(), end - first, access=mmap.ACCESS_COPY, offset=first)
        if hasattr(mmap, "MADV_WILLNEED"):
            # Read ahead by the disk in large pieces, where the kernel does not have it yet.
            area.madvise(mmap.MADV_WILLNEED)
        if sys.platform == "linux":
            _map_pages(area)
    except (OSError, ValueError):
        return None
    count = (end - begin) // info.dtype.itemsize
    return torch.frombuffer(area, dtype=info.dtype, count=count, offset=begin - first)


def _map_pages(area: mmap.mmap) -> None:
    """Have all pages mapped by one call, which costs less than meeting them one after the other.

    Raises:
        OSError: the file does not have them any more.
    """
    try:
        area.madvise(_MADV_POPULATE_READ)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 5.14
            raise


def windows(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """Offsets of the parts of a tensor that are mapped one after the other."""
    for begin in range(info.begin, info.end, WINDOW_BYTES):
        yield begin, min(begin + WINDOW_BYTES, info.end)
