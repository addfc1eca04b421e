import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hcnr.cache import cache_root, cached_directory


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path))
    return tmp_path / "lab"


def _write(text: str):
    return lambda place: (place / "file").write_text(text) and None


def test_a_key_is_built_once(root: Path):
    place = cached_directory("a", _write("first"))
    assert place == root / "a"
    assert cached_directory("a", _write("second")) == place
    assert (place / "file").read_text() == "first"
    assert cached_directory("b", _write("second")) != place
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]


def test_a_build_that_fails_leaves_nothing(root: Path):
    def build(place: Path) -> None:
        (place / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_directory("a", build)
    assert list(root.iterdir()) == []
    assert (cached_directory("a", _write("whole")) / "file").read_text() == "whole"


def test_nothing_stands_under_the_key_while_it_is_built(root: Path):
    def build(place: Path) -> None:
        assert place.parent == root and place != root / "a"
        assert not (root / "a").exists()

    assert cached_directory("a", build).is_dir()


def test_of_two_builders_at_once_one_waits_for_the_other(root: Path):
    builds: list[int] = []

    def build(place: Path) -> None:
        builds.append(1)
        time.sleep(0.3)
        (place / "file").write_text("text")

    threads = [threading.Thread(target=cached_directory, args=("a", build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]
    assert [path.name for path in root.iterdir()] == ["a"]


def test_one_that_waits_builds_where_the_other_failed(root: Path):
    begun = threading.Event()

    def fail(place: Path) -> None:
        begun.set()
        time.sleep(0.3)
        raise KeyboardInterrupt

    def first() -> None:
        with pytest.raises(KeyboardInterrupt):
            cached_directory("a", fail)

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    assert (cached_directory("a", _write("text")) / "file").read_text() == "text"
    thread.join()
    assert [path.name for path in root.iterdir()] == ["a"]


def test_one_that_comes_after_a_failure_waits_for_who_waited_before(root: Path):
    """Who waited holds a lock on a file that was removed, and must not build by it."""
    first, second = threading.Event(), threading.Event()
    inside: list[int] = []

    def fail(place: Path) -> None:
        first.set()
        time.sleep(0.5)
        raise KeyboardInterrupt

    def build(place: Path) -> None:
        second.set()
        inside.append(1)
        time.sleep(0.5)
        (place / "file").write_text("text")

    def run(work: Callable[[Path], None]) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            cached_directory("a", work)

    threads = [threading.Thread(target=run, args=(work,)) for work in (fail, build, build)]
    for thread, event in zip(threads, (None, first, second), strict=True):
        if event is not None:
            event.wait()
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [1] and [path.name for path in root.iterdir()] == ["a"]


def test_of_two_builders_where_no_file_can_be_locked_one_wins_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)

    def build(place: Path) -> None:
        cached_directory("a", _write("the quick one"))
        (place / "file").write_text("the slow one")

    assert (cached_directory("a", build) / "file").read_text() == "the quick one"
    assert [path.name for path in root.iterdir()] == ["a"]


@pytest.mark.parametrize("fault", ["gone", "cut", "list"])
def test_what_was_taken_away_is_built_again(root: Path, fault: str):
    """As tools that clean the cache of a user do, by the time of the last reading."""

    def build(place: Path) -> None:
        (place / "inner").mkdir()
        for name in ("file", "inner/other"):
            (place / name).write_text("text")

    place = cached_directory("a", build)
    if fault == "gone":
        (place / "inner/other").unlink()
    elif fault == "cut":
        (place / "file").write_text("te")
    else:
        (place / ".hcnr_files.json").write_text("{")
    assert cached_directory("a", build) == place
    assert (place / "file").read_text() == (place / "inner/other").read_text() == "text"
    assert [path.name for path in root.iterdir()] == ["a"]


def test_a_directory_of_an_earlier_version_is_used(root: Path):
    (root / "a").mkdir(parents=True)
    (root / "a" / "file").write_text("older")
    assert (cached_directory("a", _write("newer")) / "file").read_text() == "older"


def test_it_is_on_the_disk_before_it_has_its_name(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Else a machine that stops could leave files of no bytes under the key."""
    synced, fsync, rename = [], os.fsync, Path.rename

    def seen(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        files = [self, *self.iterdir()]
        assert len(files) == 3 and {file.stat().st_ino for file in files} <= set(synced)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(Path, "rename", renamed)
    cached_directory("a", _write("text"))
    assert root.stat().st_ino in synced


def test_old_leftovers_of_killed_builds_go_and_young_ones_stay(root: Path):
    old, young = root / ".x-old", root / ".y-young"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    cached_directory("a", _write("text"))
    assert not old.exists() and young.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HCNR_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_root() == Path("/one/lab")
    monkeypatch.delenv("HCNR_CACHE")
    assert cache_root() == Path("/two/hcnr/lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache/hcnr/lab"
