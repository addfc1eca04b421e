"""Outputs that appear whole, with one rename, or not at all."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hcnr.cache import fsync, fsync_tree
from hcnr.checkpoint.staging import Staging, is_absent_or_empty
from hcnr.errors import NO_ROOM, HcnrError, OutputError, system_error

PathLike = str | os.PathLike[str]


def check_output(
    out: PathLike,
    *,
    inputs: Iterable[PathLike] = (),
    overwrite: bool = False,
    nbytes: int | None = None,
) -> Path:
    """Check everything about an output directory that can be known before it is written.

    An existing empty directory counts as absent: it is replaced. With `overwrite`, a directory is
    replaced only if it is recognisably a model or an output of ours (it holds `config.json` or a
    file `hcnr_*`), so that a mistyped path costs nobody their files.

    Args:
        out: where the output shall appear.
        inputs: what is read meanwhile, and must not be replaced, contained or written into; nor
            may what links in these directories lead to.
        overwrite: whether an existing output may be replaced.
        nbytes: space that the output will take; unknown by default.

    Returns:
        `out`, absolute with symbolic links resolved.

    Raises:
        OutputError: it cannot be written there.
    """
    target = _resolved(out)
    with _Explained(target):
        _check_target(target, inputs)
        if target.exists():
            _check_replaceable(target, overwrite)
        free = shutil.disk_usage(existing(target.parent)).free
    if nbytes is not None and free < nbytes:
        raise OutputError(
            f"the output '{target}' needs {nbytes / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free "
            "there; free some space or choose another disk"
        )
    return target


@contextlib.contextmanager
def output_directory(
    out: PathLike,
    *,
    inputs: Iterable[PathLike] = (),
    overwrite: bool = False,
    nbytes: int | None = None,
) -> Iterator[Path]:
    """Yield a temporary directory that becomes `out` at a clean exit.

    Missing directories above `out` are made. The work lies beside `out` under a hidden name. At
    the end every file is on the disk before one rename makes it visible; after any exception,
    Ctrl-C or SIGTERM it is removed. A killed run leaves hidden names behind, which the next run
    for the same `out` cleans up; if it was killed while it replaced an old output, the old one is
    put back. A second run for the same `out` is refused as long as the first is alive.

    Args:
        out: where the output shall appear; see `check_output` for what is accepted.
        inputs: what is read meanwhile, and must not be replaced, contained or written into; nor
            may what links in these directories lead to.
        overwrite: whether an existing output may be replaced, which happens at the very end.
        nbytes: space that the output will take; unknown by default.

    Yields:
        An empty directory to write into.

    Raises:
        OutputError: it cannot be written there; the message says why and what to do.
    """
    inputs = list(inputs)
    target = _resolved(out)
    with _Explained(target):
        _check_target(target, inputs)
    staging = Staging(target)
    with (
        _Explained(target) as errors,
        _terminated_by_exit(),
        parents_made(target),
        staging.locked(),
    ):
        # Not before: cleaning up may have put an interrupted run's old output back.
        check_output(target, inputs=inputs, overwrite=overwrite, nbytes=nbytes)
        work = staging.make()
        errors.in_body = True
        yield work
        errors.in_body = False
        fsync_tree(work)
        if is_absent_or_empty(target):
            os.rename(work, target)
            fsync(target.parent)
        else:
            os.rename(target, staging.old)
            os.rename(work, target)
            fsync(target.parent)
            staging.discard(staging.old)


@contextlib.contextmanager
def atomic_file(path: PathLike, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path whose file becomes `path` at a clean exit.

    The file has the name of `path`, in a hidden directory beside it: writers that look at the
    suffix, or that make temporary files of their own, work as they would at `path` itself. After
    any exception, Ctrl-C or SIGTERM nothing is left; after a kill, the next run cleans up.

    Args:
        path: where the file shall appear. A symbolic link is followed.
        overwrite: whether an existing file may be replaced.

    Yields:
        The path to write to.

    Raises:
        OutputError: it cannot be written there, or nothing was written.
    """
    target = _resolved(path, follow=True)
    with _Explained(target):
        check_parent(target)
    if target.exists() and not target.is_file():
        raise OutputError(f"the output '{target}' is no regular file; choose another name")
    if target.exists() and not overwrite:
        raise OutputError(
            f"the output '{target}' already exists; choose another name or pass --overwrite"
        )
    staging = Staging(target)
    with (
        _Explained(target) as errors,
        _terminated_by_exit(),
        parents_made(target),
        staging.locked(),
    ):
        work = staging.make() / target.name
        errors.in_body = True
        yield work
        errors.in_body = False
        if not work.is_file():
            raise OutputError(f"nothing was written for the output '{target}'; run it again")
        # Some writers make private files; this one is as readable as the user's others.
        probe = work.with_name("mode")
        probe.touch()
        work.chmod(probe.stat().st_mode & 0o777)
        probe.unlink()
        fsync(work)
        os.replace(work, target)
        fsync(target.parent)


def _resolved(out: PathLike, follow: bool = False) -> Path:
    path = Path(out).expanduser()
    if path.is_symlink() and not follow:
        # A rename would replace the link and leave the directory it names as it was.
        raise OutputError(
            f"the output '{path}' is a symbolic link; name the directory it points to, or remove it"
        )
    try:
        str(path).encode()
        return path.resolve()
    except UnicodeEncodeError as error:
        # What opens safetensors files finds none there, which it would say at the very end.
        raise OutputError(
            f"the name of the output, {os.fsencode(path)!r}, is no UTF-8; choose another name"
        ) from error
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"the output '{path}' cannot be resolved ({error}); name a path without a loop of links"
        ) from error


def _check_target(target: Path, inputs: Iterable[PathLike]) -> None:
    for source in inputs:
        directory = Path(source).expanduser()
        _check_apart(target, directory.resolve())
        for link in _links(directory):
            _check_apart(target, link.resolve(), link)
    for directory in (Path("~").expanduser().resolve(), Path.cwd()):
        if target == directory or target in directory.parents:
            raise OutputError(
                f"the output '{target}' is or holds '{directory}', the home or the current "
                "directory, and is never replaced; name a directory inside it"
            )
    check_parent(target)


def _links(directory: Path) -> list[Path]:
    """Files of an input that lie elsewhere, as all of a download do; none of what is no folder."""
    if not directory.is_dir():
        return []
    return sorted(entry for entry in directory.iterdir() if entry.is_symlink() and entry.is_file())


def _check_apart(target: Path, source: Path, link: Path | None = None) -> None:
    """Refuse an output that is an input, lies in it or holds it.

    Args:
        target: the output, resolved.
        source: the input, or what an entry of it leads to, resolved.
        link: that entry.
    """
    for inner, outer, relation in (
        (target, source, "inside the input"),
        (source, target, "a directory that holds the input"),
    ):
        if inner == outer or _same(inner, outer):
            placement = "the input itself,"
        elif any(parent == outer or _same(parent, outer) for parent in inner.parents):
            placement = relation
        else:
            continue
        where = "" if link is None else f", which '{link}' is a link to"
        raise OutputError(
            f"the output '{target}' is {placement} '{source}'{where}; choose a directory outside "
            "all inputs"
        )


def _same(first: Path, second: Path) -> bool:
    # Bind mounts and case-insensitive file systems give one directory several names.
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def existing(directory: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    return next(path for path in (directory, *directory.parents) if os.path.lexists(path))


@contextlib.contextmanager
def parents_made(target: Path) -> Iterator[None]:
    """Make the directories above an output; those that were made go again when the body fails."""
    new: list[Path] = []
    try:
        for parent in reversed([p for p in target.parents if not p.exists()]):
            parent.mkdir(exist_ok=True)
            new.append(parent)
        yield
    except BaseException:
        for parent in reversed(new):
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def check_parent(target: Path) -> None:
    """Refuse a place where neither a file nor the directories above it can be made.

    Raises:
        OutputError: the nearest directory above it that exists is none, or not writable.
    """
    parent = existing(target.parent)
    if not parent.is_dir():
        raise OutputError(
            f"the output '{target}' cannot be written: '{parent}' is no directory; choose another "
            "place"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"the output '{target}' cannot be written: '{parent}' is not writable; choose another "
            "place or change its permissions"
        )


def _check_replaceable(target: Path, overwrite: bool) -> None:
    if not target.is_dir():
        raise OutputError(f"the output '{target}' is a file; choose another directory")
    if os.path.ismount(target):
        raise OutputError(
            f"the output '{target}' is a mount point, which no rename can replace; name a "
            "directory inside it"
        )
    if is_absent_or_empty(target):
        return
    if not overwrite:
        raise OutputError(
            f"the output '{target}' already exists; choose another directory or pass --overwrite"
        )
    if not any(p.name == "config.json" or p.name.startswith("hcnr_") for p in target.iterdir()):
        raise OutputError(
            f"the output '{target}' holds neither config.json nor a file hcnr_*, so it is not "
            "replaced even with --overwrite; choose another directory or delete it yourself"
        )


class _Explained:
    """Turns the system's refusals into one sentence; other errors of the body pass unchanged.

    Attributes:
        in_body: whether the caller's code runs, whose errors need not concern the output.
    """

    def __init__(self, target: Path):
        self._target = target
        self.in_body = False

    def __enter__(self) -> "_Explained":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, HcnrError):
            return
        failed = system_error(error)
        if failed is None or (self.in_body and failed.errno not in NO_ROOM):
            return
        where = f" at '{failed.filename}'" if failed.filename else ""
        raise OutputError(
            f"the output '{self._target}' could not be written "
            f"({failed.strerror or failed}{where}); free some space, check the permissions, or "
            "choose another place"
        ) from error


@contextlib.contextmanager
def _terminated_by_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporaries are removed; others' handlers stay."""
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
