import os
import time
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


def test_of_two_builders_at_once_one_wins_whole(root: Path):
    def build(place: Path) -> None:
        cached_directory("a", _write("the quick one"))
        (place / "file").write_text("the slow one")

    assert (cached_directory("a", build) / "file").read_text() == "the quick one"
    assert [path.name for path in root.iterdir()] == ["a"]


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
