"""Hidden names beside an output, the lock that guards them, and how a killed run is cleaned up.

Beside an output `NAME` may lie, all on its file system:

- `.NAME.hcnr-lock`: held with flock for the whole of a run; the kernel frees it when a run dies.
- `.NAME.hcnr-XXXXXXXX` (hexadecimal digits): work in progress, or what waits to be deleted.
- `.NAME.hcnr-old`: the complete former output, only ever between the two renames of a replacement.

Whoever holds the lock knows that no other run is alive, so it may judge the rest by name alone.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from hcnr.errors import OutputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Staging:
    """The hidden names of one output.

    Attributes:
        out: the output, absolute with symbolic links resolved.
        old: where the former output waits between two renames.
    """

    def __init__(self, out: Path):
        name = out.name
        if len(os.fsencode(name)) > 200:
            # With the affixes the name would pass the 255 bytes that file systems allow.
            name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        self.out = out
        self._prefix = f".{name}.hcnr-"
        self._lock = out.parent / f"{self._prefix}lock"
        self.old = out.parent / f"{self._prefix}old"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; recover and clean what dead runs left first, and the same at the end.

        Raises:
            OutputError: another run is alive, or the file system cannot lock.
        """
        held: list[int] = []
        try:
            # Ctrl-C between making the file and knowing of it would leave it behind.
            with interrupted_later():
                held.append(self._acquire())
            self.recover()
            yield
        finally:
            for descriptor in held:
                try:
                    self.recover()
                finally:
                    # Removed while it is held: whoever opened it meanwhile finds another inode,
                    # or none, under the name and tries again.
                    try:
                        with contextlib.suppress(OSError):
                            os.unlink(self._lock)
                    finally:
                        os.close(descriptor)

    def make(self) -> Path:
        """Make an empty work directory with the permissions of any new directory."""
        work = self._fresh()
        os.mkdir(work)
        return work

    def discard(self, path: Path) -> None:
        """Delete a directory that may lie under a name of its own.

        It is renamed first: a deletion cut short must not leave half an output under a whole
        one's name.
        """
        trash = self._fresh()
        os.rename(path, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def recover(self) -> None:
        """Put an output back that was moved aside, delete all other leftovers.

        Only to be called with the lock held.
        """
        if os.path.lexists(self.old):
            if is_absent_or_empty(self.out):
                os.rename(self.old, self.out)
            else:
                self.discard(self.old)
        pattern = re.compile(re.escape(self._prefix) + "[0-9a-f]{8}")
        for path in self.out.parent.iterdir():
            if pattern.fullmatch(path.name):
                try:
                    # Moved first: another process of the run may still be making files there.
                    self.discard(path)
                except OSError:
                    shutil.rmtree(path, ignore_errors=True)

    def _fresh(self) -> Path:
        return self.out.parent / f"{self._prefix}{secrets.token_hex(4)}"

    def _acquire(self) -> int:
        while True:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_named(descriptor, self._lock):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise OutputError(
                    f"another run is writing '{self.out}' right now; wait for it to end, or "
                    "choose another output"
                ) from None
            except OSError as error:
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    raise OutputError(
                        f"the file system of '{self.out.parent}' cannot lock files "
                        f"({error.strerror}); choose an output on a local disk"
                    ) from error
                raise
            os.close(descriptor)


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """Put Ctrl-C off to the end of a short piece of work; only the main thread is ever told of it.

    Masking the signal would not do: the kernel would hand it to another thread, and Python would
    tell the main thread all the same.
    """
    own = signal.getsignal(signal.SIGINT)
    # A handler that Python has not installed cannot be put back.
    if own is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    missed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: missed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own)
        if missed:
            signal.raise_signal(signal.SIGINT)


def is_absent_or_empty(path: Path) -> bool:
    """Whether nothing, or an empty directory, lies at a path."""
    if not os.path.lexists(path):
        return True
    return path.is_dir() and not path.is_symlink() and next(path.iterdir(), None) is None


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
