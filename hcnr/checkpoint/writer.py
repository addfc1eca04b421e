"""A copy of a checkpoint's weights in which some tensors are replaced, at the speed of a copy."""

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import torch

from hcnr.cache import fsync
from hcnr.checkpoint.background import Background
from hcnr.checkpoint.copying import Copy, Spliced
from hcnr.checkpoint.fingerprints import byte_view
from hcnr.checkpoint.headers import Shard, TensorInfo
from hcnr.checkpoint.layout import INDEX, SINGLE
from hcnr.checkpoint.reader import Checkpoint
from hcnr.errors import CheckpointError

Progress = Callable[[int], None]
New = torch.Tensor | Spliced
Replacement = Callable[[str], New | None] | Mapping[str, Callable[[], New]]


def write_weights(
    tuned: Checkpoint,
    directory: Path,
    replacement: Replacement,
    progress: Progress | None = None,
    files: Collection[str] | None = None,
) -> int:
    """Write tuned's weight files, with its shard map and headers, replacing some tensors.

    Whatever is not replaced is copied byte for byte. Replacements are asked for in file order, one
    at a time, while a thread writes: it has one in hand and one waits, so three are in memory at
    once. Another thread waits for the disk.

    Args:
        tuned: the checkpoint to copy.
        directory: an existing directory, usually from `output_directory`.
        replacement: gives the new tensor of a name, or None to keep the stored one; or a mapping of
            the names to replace to functions without arguments. A new tensor has the stored dtype
            and shape, may live on any device, and is not to be changed afterwards; a `Spliced` is
            one whose rows lie in two others.
        progress: called with the bytes just written, which add up to `tuned.nbytes` (the index is
            left out) where all files are written, by the thread that called.
        files: names of the weight files to write, where others write the rest; all by default. The
            index is written with the first of them.

    Returns:
        Bytes written, the index included.

    Raises:
        CheckpointError: a replacement has another dtype or shape, names no tensor, or the
            checkpoint changed since it was opened.
        OutputError: a file cannot be written.
    """
    ask = _asker(tuned, replacement)
    shards = [one for one in tuned.shards if files is None or one.file.name in files]
    total = tuned.bytes_of(files)
    done: deque[int] = deque()

    def tell() -> None:
        while done:
            count = done.popleft()
            if progress is not None:
                progress(count)

    with contextlib.ExitStack() as opened:
        with Background(0) as syncing, Background(1, tell) as writing:

            def advance(count: int) -> None:
                done.append(count)
                writing.check()

            for shard in shards:
                target = directory / shard.file.name
                out = opened.enter_context(Copy(shard.file, target, advance))
                out.check_unchanged(shard)
                out.set_aside()
                _write_shard(shard, out, ask, writing, syncing)
        tell()
        # Replacements were made of them meanwhile, and a copy takes its time.
        tuned.check_unchanged(files)
        if begins(tuned, files) and tuned.shards[0].file.name != SINGLE:
            out = opened.enter_context(Copy(tuned.path / INDEX, directory / INDEX))
            total += out.size
            out.finish(out.size)
            out.sync()
    fsync(directory)
    return total


def begins(tuned: Checkpoint, files: Collection[str] | None) -> bool:
    """Whether a writer of some weight files has the first, and with it what is no weight file."""
    return files is None or tuned.shards[0].file.name in files


def shares_of(tuned: Checkpoint, count: int) -> list[frozenset[str]]:
    """Name of the weight files that each of several writers writes, alike in bytes.

    The largest first, each to whoever has the fewest bytes by then, the lowest number of equals.

    Args:
        tuned: the checkpoint to copy.
        count: writers.
    """
    shares: list[set[str]] = [set() for _ in range(count)]
    loads = [0] * count
    for shard in sorted(tuned.shards, key=lambda shard: (-shard.size, shard.file.name)):
        least = loads.index(min(loads))
        loads[least] += shard.size
        shares[least].add(shard.file.name)
    return [frozenset(share) for share in shares]


def _asker(tuned: Checkpoint, replacement: Replacement) -> Callable[[str], New | None]:
    if not isinstance(replacement, Mapping):
        return replacement
    for name in replacement:
        tuned.info(name)

    def ask(name: str) -> New | None:
        return replacement[name]() if name in replacement else None

    return ask


def _write_shard(
    shard: Shard,
    out: Copy,
    ask: Callable[[str], New | None],
    writing: Background,
    syncing: Background,
) -> None:
    for info in shard.tensors:
        tensor = ask(info.name)
        if tensor is not None:
            check_replacement(info, tensor)
            pieces = tensor.pieces() if isinstance(tensor, Spliced) else [byte_view(tensor)]
            writing.do(partial(out.replace, info.begin, pieces))

    def finish() -> None:
        out.finish(shard.size)
        syncing.do(out.sync)

    writing.do(finish)


def check_replacement(info: TensorInfo, tensor: New) -> None:
    """Raise CheckpointError unless a new tensor has the stored dtype and shape."""
    if (tensor.dtype, tuple(tensor.shape)) != (info.dtype, info.shape):
        raise CheckpointError(
            f"the replacement of {info.name!r} is {tensor.dtype} {list(tensor.shape)}, and "
            f"{info.dtype} {list(info.shape)} was expected; convert it before writing"
        )
