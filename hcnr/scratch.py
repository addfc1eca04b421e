"""Temporary directories of a run, and what killed runs have left of theirs.

They lie in TMPDIR, or where else a caller wants them. Beside a directory `hcnr-XXXXXXXX` lies
`hcnr-XXXXXXXX.lock`, which is locked with flock while its owner lives; the kernel frees it when the
owner dies, however that happens. The lock is there before its directory and goes after it, so
whatever is found without an owner has one that died.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["Scratch", "remove_abandoned", "scratch_directory"]

_PREFIX, _LOCK = "hcnr-", ".lock"


class Scratch:
    """An empty directory, which goes when it is closed.

    Attributes:
        path: of the directory.
    """

    def __init__(self, root: Path | None = None) -> None:
        """Make the directory; the first of a process removes what dead ones left.

        Args:
            root: where it lies; TMPDIR when None.

        Raises:
            OSError: it cannot be made.
        """
        root = root or Path(tempfile.gettempdir())
        _once(root)
        self._lock, self._held = _locked(root)
        self.path = self._lock.with_suffix("")
        try:
            self.path.mkdir(mode=0o700)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the directory; again does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._held is not None:
            self._lock.unlink(missing_ok=True)
            os.close(self._held)
            self._held = None


@contextlib.contextmanager
def scratch_directory(root: Path | None = None) -> Iterator[Path]:
    """An empty directory in TMPDIR, or in `root`, for as long as the context is open."""
    scratch = Scratch(root)
    try:
        yield scratch.path
    finally:
        scratch.close()


def remove_abandoned(root: Path | None = None) -> None:
    """Remove what dead processes of this user left in TMPDIR, or in `root`.

    What lives, or is not ours, stays.
    """
    for lock in (root or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*{_LOCK}"):
        with contextlib.suppress(OSError):
            _remove(lock)


@cache
def _once(root: Path) -> None:
    """`remove_abandoned`, the first time that a process asks for a place there."""
    remove_abandoned(root)


def _locked(root: Path) -> tuple[Path, int | None]:
    """A new name and its lock; without one where files cannot be locked, which nobody removes."""
    while True:
        lock = root / f"{_PREFIX}{secrets.token_hex(4)}{_LOCK}"
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(descriptor, lock):
                return lock, descriptor
        except BlockingIOError:
            pass  # Somebody took it for one that was left.
        except OSError as error:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            return lock, None
        os.close(descriptor)


def _remove(lock: Path) -> None:
    """Remove a directory and its lock, unless their owner lives."""
    descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_named(descriptor, lock):
            # A link in its place is not followed.
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
