import os
import signal
from pathlib import Path

import pytest

from hcnr.checkpoint import output_directory, staging
from hcnr.errors import OutputError

from .helpers import leftovers, names, tree, write, written


def test_a_live_run_is_not_touched(tmp_path: Path):
    with output_directory(tmp_path / "out") as work:
        (work / "config.json").write_text("first")
        with pytest.raises(OutputError, match="another run is writing"):
            write(tmp_path / "out")
        # Another output in the same directory is nobody's business, even with a confusing name.
        write(tmp_path / "out.hcnr-12345678")
        write(tmp_path / "ou")
        assert tree(work) == {"config.json": b"first"}
    assert tree(tmp_path / "out") == {"config.json": b"first"}
    assert names(tmp_path) == ["ou", "out", "out.hcnr-12345678"]


def test_lock_that_was_removed_while_we_waited_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = os.open
    lock = tmp_path / ".out.hcnr-lock"

    def open_and_lose(path: object, *arguments: int) -> int:
        descriptor = opened(path, *arguments)  # type: ignore[arg-type]
        if path == lock:
            monkeypatch.setattr(os, "open", opened)
            lock.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    with output_directory(tmp_path / "out"):
        assert lock.exists()
        with pytest.raises(OutputError, match="another run"):
            write(tmp_path / "out")


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(staging.fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="cannot lock files"):
        write(tmp_path / "out")


def test_leftovers_of_dead_runs_are_cleaned(tmp_path: Path):
    leftovers(tmp_path)
    for other in (".out.hcnr-0123abcd.txt", ".other.hcnr-0123abcd", ".out.hcnr-mine", "out2"):
        (tmp_path / other).mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == [
        ".other.hcnr-0123abcd",
        ".out.hcnr-0123abcd.txt",
        ".out.hcnr-mine",
        "out",
        "out2",
    ]
    assert tree(tmp_path / "out") == written()


@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_old_output_is_put_back_after_a_kill_between_the_renames(tmp_path: Path, empty: bool):
    write(tmp_path / "out", "old")
    leftovers(tmp_path)
    (tmp_path / "out").rename(tmp_path / ".out.hcnr-old")
    if empty:
        (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="already exists"):
        write(tmp_path / "out")
    assert tree(tmp_path) == {f"out/{name}": content for name, content in written("old").items()}
    write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == written()
    assert names(tmp_path) == ["out"]


def test_old_output_is_removed_after_a_kill_behind_the_renames(tmp_path: Path):
    write(tmp_path / "out", "new")
    write(tmp_path / ".out.hcnr-old", "old")
    with pytest.raises(OutputError, match="already exists"):
        write(tmp_path / "out")
    assert tree(tmp_path / "out") == written("new")
    assert names(tmp_path) == ["out"]


def test_old_output_is_put_back_when_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "out", "old")
    rename = os.rename
    failed = []

    def fail_once(source: Path, target: Path) -> None:
        if Path(target).name == "out" and not failed:
            failed.append(source)
            raise OSError(5, "Input/output error", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OutputError, match="Input/output error"):
        write(tmp_path / "out", overwrite=True)
    assert failed
    assert tree(tmp_path / "out") == written("old")
    assert names(tmp_path) == ["out"]


def test_ctrl_c_as_the_lock_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make = os.open

    def interrupted(path: Path, *settings: int) -> int:
        descriptor = make(path, *settings)
        if str(path).endswith("lock"):
            signal.raise_signal(signal.SIGINT)
        return descriptor

    monkeypatch.setattr(os, "open", interrupted)
    # A background job of some shells has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert names(tmp_path) == []
