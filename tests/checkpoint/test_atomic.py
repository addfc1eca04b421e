import os
import stat
from pathlib import Path

import pytest

from hcnr.checkpoint import atomic_file
from hcnr.errors import OutputError

from .helpers import leftovers, names, tree


def test_atomic_file(tmp_path: Path):
    with atomic_file(tmp_path / "s.safetensors") as work:
        assert work.name == "s.safetensors"
        assert not work.exists()
        work.write_text("one")
        # As writers do that make a temporary file of their own.
        (work.parent / "scratch").write_text("x")
        assert not (tmp_path / "s.safetensors").exists()
    assert tree(tmp_path) == {"s.safetensors": b"one"}
    with atomic_file(tmp_path / "s.safetensors") as work:
        work.write_text("two")
    assert tree(tmp_path) == {"s.safetensors": b"two"}
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "s.safetensors").stat().st_mode) == 0o666 & ~umask
    with (
        pytest.raises(OutputError, match="already exists"),
        atomic_file(tmp_path / "s.safetensors", overwrite=False),
    ):
        raise AssertionError
    assert names(tmp_path) == ["s.safetensors"]


def test_atomic_file_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[int] = []
    fsync, replace = os.fsync, os.replace

    def seen(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    def checked(source: Path, target: Path) -> None:
        assert synced == [Path(source).stat().st_ino]
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "replace", checked)
    with atomic_file(tmp_path / "a") as work:
        work.write_text("x")
    assert synced[1:] == [tmp_path.stat().st_ino]


def test_atomic_file_refuses(tmp_path: Path):
    (tmp_path / "directory").mkdir()
    for path, message in (
        (tmp_path / "directory", "no regular file"),
        (tmp_path / "deep" / "er" / "file", "nothing was written"),
        (tmp_path / "nothing", "nothing was written"),
    ):
        with pytest.raises(OutputError, match=message), atomic_file(path):
            pass
    assert names(tmp_path) == ["directory"]


def test_atomic_file_makes_directories(tmp_path: Path):
    with atomic_file(tmp_path / "deep" / "er" / "file") as work:
        work.write_text("x")
    assert tree(tmp_path) == {"deep/er/file": b"x"}


def test_atomic_file_after_an_exception_or_a_kill(tmp_path: Path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "out") as work:
        work.write_text("half")
        raise ZeroDivisionError
    assert tree(tmp_path) == {"out": b"old"}
    leftovers(tmp_path)
    with atomic_file(tmp_path / "out") as work:
        work.write_text("new")
        with pytest.raises(OutputError, match="another run"), atomic_file(tmp_path / "out"):
            raise AssertionError
    assert tree(tmp_path) == {"out": b"new"}


def test_atomic_file_follows_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/file")
    with atomic_file(tmp_path / "link") as work:
        work.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "real") == {"file": b"x"}
