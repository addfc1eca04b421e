"""Directories that are built once, under a key, and are either complete or absent."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_DAY = 24 * 3600.0
_LIST = ".hcnr_files.json"
"""Sizes of a directory's files, relative to it."""


def cache_root() -> Path:
    """Where worlds and converted models are kept: `$HCNR_CACHE`, else `hcnr` in the user's cache.

    The folder `lab` in it has its name from the first releases, whose worlds are still found there.
    """
    if chosen := os.environ.get("HCNR_CACHE"):
        return Path(chosen).expanduser() / "lab"
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "hcnr" / "lab"


def cached_directory(key: str, build: Callable[[Path], None], *, nbytes: int | None = None) -> Path:
    """Return the directory of a key, building it first if it is not there.

    Where `nbytes` says what it will take, and less is free, an OSError says so before it is built.

    It is built in a temporary directory beside its place and renamed when it is complete and on the
    disk, so a killed or failed build, or a machine that stops, leaves nothing under the key. Of two
    builders at once one waits for the other, or where files cannot be locked one wins whole. What
    was taken away from a directory, or cut, is built again.
    """
    root = cache_root()
    directory = root / key
    if _is_whole(directory):
        return directory
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    with _turn(root / f".{key}.lock"):
        if _is_whole(directory):
            return directory
        _check_room(root, nbytes)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
        try:
            if directory.is_dir():
                directory.rename(temporary / "broken")
                shutil.rmtree(temporary / "broken", ignore_errors=True)
            build(temporary)
            _list(temporary)
            fsync_tree(temporary)
            try:
                temporary.rename(directory)
            except OSError:
                # Another process has put its own finished directory there meanwhile.
                if not _is_whole(directory):
                    raise
            fsync(root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _check_room(root: Path, nbytes: int | None) -> None:
    free = shutil.disk_usage(root).free
    if nbytes is not None and free < nbytes:
        raise OSError(
            errno.ENOSPC, f"it takes {nbytes / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free there"
        )


def _list(directory: Path) -> None:
    """Keep beside the files what they are, for `_is_whole`."""
    sizes = {p.relative_to(directory).as_posix(): p.stat().st_size for p in _files(directory)}
    (directory / _LIST).write_text(json.dumps(sizes), encoding="utf-8")


def _is_whole(directory: Path) -> bool:
    """Whether all files of a directory are there; earlier versions have left no list of them."""
    if not directory.is_dir():
        return False
    try:
        sizes = (directory / _LIST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    try:
        return all((directory / n).stat().st_size == size for n, size in json.loads(sizes).items())
    except (OSError, ValueError):
        return False


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@contextlib.contextmanager
def _turn(file: Path) -> Iterator[None]:
    """Wait for others that are inside with the same file; nobody waits where none can be locked."""
    locked, descriptor = False, -1
    while not locked:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever was inside has removed the file that was locked.
            locked = os.path.samestat(os.fstat(descriptor), os.stat(file))
        except FileNotFoundError:
            pass
        except OSError:
            break
        finally:
            if not locked:
                os.close(descriptor)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        if locked:
            os.close(descriptor)


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(directory: Path) -> None:
    """Wait until a directory and all below it is on the disk, children before parents."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                fsync(path)
        fsync(Path(folder))


def as_readable(directory: Path) -> None:
    """Make a built directory and its files as readable as what the user writes otherwise.

    Until then they are private, as temporary files are.
    """
    probe = directory / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for written in directory.iterdir():
        if written.is_file():
            written.chmod(mode)
    directory.chmod(mode | (mode & 0o444) >> 2)


def _sweep(root: Path) -> None:
    """Remove what killed builds left behind; a day is far longer than any build takes."""
    for leftover in root.glob(".*-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _DAY:
                shutil.rmtree(leftover, ignore_errors=True)
