"""Directories that are built once, under a key, and are either complete or absent."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_DAY = 24 * 3600.0


def cache_root() -> Path:
    """Where worlds and converted models are kept: `$HCNR_CACHE`, else `hcnr` in the user's cache.

    The folder `lab` in it has its name from the first releases, whose worlds are still found there.
    """
    if chosen := os.environ.get("HCNR_CACHE"):
        return Path(chosen).expanduser() / "lab"
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "hcnr" / "lab"


def cached_directory(key: str, build: Callable[[Path], None]) -> Path:
    """Returns the directory of a key, building it first if it is not there.

    It is built in a temporary directory beside its place and renamed when complete, so a killed
    or failed build leaves nothing under the key, and of two builders at once one wins whole.
    """
    root = cache_root()
    place = root / key
    if place.is_dir():
        return place
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
    try:
        build(temporary)
        try:
            temporary.rename(place)
        except OSError:
            # Another process has put its own finished directory there meanwhile.
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def as_readable(place: Path) -> None:
    """Makes a built directory and its files as readable as what the user writes otherwise.

    Until then they are private, as temporary files are.
    """
    probe = place / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for written in place.iterdir():
        if written.is_file():
            written.chmod(mode)
    place.chmod(mode | (mode & 0o444) >> 2)


def _sweep(root: Path) -> None:
    """Removes what killed builds left behind; a day is far longer than any build takes."""
    for leftover in root.glob(".*-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _DAY:
                shutil.rmtree(leftover, ignore_errors=True)
