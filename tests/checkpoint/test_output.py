import os
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from hcnr.checkpoint import atomic_file, check_output, output_directory
from hcnr.errors import DataError, OutputError

from .helpers import names, tree, write, written


def test_appears_whole_at_the_end(tmp_path: Path):
    with output_directory(tmp_path / "out") as work:
        assert work.parent == tmp_path
        assert names(work) == []
        assert work.name.startswith(".out.hcnr-")
        assert not (tmp_path / "out").exists()
        (work / "a").write_text("new")
    assert names(tmp_path) == ["out"]
    assert tree(tmp_path / "out") == {"a": b"new"}


def test_permissions_are_those_of_any_new_directory(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    write(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_everything_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    events: list[object] = []
    fsync, rename = os.fsync, os.rename

    def seen_fsync(fd: int) -> None:
        events.append(os.fstat(fd).st_ino)
        fsync(fd)

    def seen_rename(source: Path, target: Path) -> None:
        events.append((Path(source).name, Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "rename", seen_rename)
    with output_directory(tmp_path / "out") as work:
        (work / "sub").mkdir()
        paths = [work / "sub" / "b", work / "config.json"]
        for path in paths:
            path.write_text("x")
        inodes = {p.stat().st_ino for p in [*paths, work / "sub", work]}
        name = work.name
    at = events.index((name, "out"))
    assert set(events[:at]) == inodes
    assert events[at - 1] == (tmp_path / "out").stat().st_ino
    assert events[at + 1] == tmp_path.stat().st_ino
    # The old one goes when the new one's name is on the disk too, and not before.
    events.clear()
    with output_directory(tmp_path / "out", overwrite=True) as work:
        (work / "config.json").write_text("y")
        name = work.name
    at = events.index((name, "out"))
    assert events[at - 1] == ("out", ".out.hcnr-old")
    assert events[at + 1] == tmp_path.stat().st_ino
    moved = events[at + 2]
    assert isinstance(moved, tuple) and moved[0] == ".out.hcnr-old"


@pytest.mark.parametrize(
    "error", [DataError("x"), ValueError("x"), KeyboardInterrupt(), SystemExit(3)]
)
@pytest.mark.parametrize("old", [False, True])
def test_an_exception_leaves_nothing(tmp_path: Path, error: BaseException, old: bool):
    if old:
        write(tmp_path / "out", "old")
    before = tree(tmp_path)
    with (
        pytest.raises(type(error)) as caught,
        output_directory(tmp_path / "out", overwrite=True) as work,
    ):
        (work / "sub").mkdir()
        (work / "sub" / "a").write_text("half")
        raise error
    assert caught.value is error
    assert tree(tmp_path) == before
    assert names(tmp_path) == (["out"] if old else [])


def test_errors_of_the_body_are_left_alone_unless_the_disk_is_full(tmp_path: Path):
    with pytest.raises(FileNotFoundError), output_directory(tmp_path / "out"):
        (tmp_path / "no such data").read_text()
    with pytest.raises(OutputError, match="No space left"), output_directory(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_existing_output(tmp_path: Path):
    write(tmp_path / "out", "old")
    with pytest.raises(OutputError, match=r"already exists.*--overwrite"):
        write(tmp_path / "out")
    assert tree(tmp_path / "out") == written("old")
    assert names(tmp_path) == ["out"]
    write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == written()
    assert names(tmp_path) == ["out"]


def test_existing_empty_directory_counts_as_absent(tmp_path: Path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert tree(tmp_path / "out") == written()


def test_unknown_directory_is_never_replaced(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"neither config\.json nor a file hcnr_\*"):
        write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == {"out/thesis.tex": b"years of work"}
    (tmp_path / "out" / "hcnr_report.json").write_text("{}")
    write(tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == written()


@pytest.mark.parametrize("overwrite", [False, True])
def test_existing_file(tmp_path: Path, overwrite: bool):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "out", overwrite=overwrite)


def test_link(tmp_path: Path):
    write(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to("real")
    with pytest.raises(OutputError, match="symbolic link"):
        write(tmp_path / "out", overwrite=True)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop"):
        write(tmp_path / "loop" / "out")


def test_home_current_directory_and_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "a" / "b")
    for out in (".", "..", tmp_path / "a" / "b", tmp_path / "a"):
        with pytest.raises(OutputError, match="current directory"):
            check_output(out, overwrite=True)
    monkeypatch.chdir(tmp_path)
    check_output(tmp_path / "a", overwrite=True)
    monkeypatch.setenv("HOME", str(tmp_path / "a" / "b"))
    with pytest.raises(OutputError, match="home"):
        check_output("~", overwrite=True)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "a"))
    with pytest.raises(OutputError, match="mount point"):
        check_output(tmp_path / "a", overwrite=True)


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(Path("out"))
    assert tree(tmp_path / "out") == written()
    assert check_output("x/../out", overwrite=True) == tmp_path / "out"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("out", "found"),
    [
        ("input", "is the input itself"),
        ("link", "is a symbolic link"),
        ("link/sub/..", "is the input itself"),
        ("input/out", "is inside the input"),
        ("link/sub/out", "is inside the input"),
        ("outer", "holds the input"),
    ],
)
def test_output_against_inputs(tmp_path: Path, out: str, found: str, overwrite: bool):
    real = tmp_path / "outer" / "input"
    (real / "sub").mkdir(parents=True)
    (real / "config.json").write_text("{}")
    (tmp_path / "outer" / "config.json").write_text("{}")
    (tmp_path / "input").symlink_to("outer/input")
    (tmp_path / "link").symlink_to("input")
    target = real if out == "input" else tmp_path / out
    before = tree(tmp_path)
    # The input is named through a link, and another one is fine.
    with pytest.raises(OutputError, match=found):
        write(target, inputs=[tmp_path / "elsewhere", tmp_path / "input"], overwrite=overwrite)
    assert tree(tmp_path) == before


def test_an_output_that_links_of_an_input_lead_into(tmp_path: Path):
    """Replaced, it would be what the input reads from then on."""
    store, model = tmp_path / "store", tmp_path / "model"
    for place in (store, model, tmp_path / "deep" / "er"):
        place.mkdir(parents=True)
    (store / "config.json").write_text("{}")
    (store / "blob").write_bytes(b"weights")
    (tmp_path / "deep" / "er" / "step").symlink_to(store / "blob")
    (model / "model.safetensors").symlink_to(tmp_path / "deep" / "er" / "step")
    (model / "gone").symlink_to(store / "gone")
    (model / "runs").symlink_to(tmp_path / "deep")
    before = tree(store)
    with pytest.raises(OutputError, match=r"holds the input .*blob', which .*model.safetensors'"):
        write(store, inputs=[model], overwrite=True)
    assert tree(store) == before
    # Beside what a link leads to, and in a folder that is only linked, is as good as elsewhere.
    write(store / "out", inputs=[model])
    write(tmp_path / "deep" / "out", inputs=[model])


def test_output_beside_an_input_with_a_common_prefix(tmp_path: Path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model-restored", inputs=[tmp_path / "model"])
    assert tree(tmp_path / "model-restored") == written()


def test_another_name_of_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # As under a bind mount or a file system that ignores case.
    (tmp_path / "Model").mkdir()
    (tmp_path / "Model" / "config.json").write_text("{}")
    (tmp_path / "model").mkdir()
    samefile = os.path.samefile
    monkeypatch.setattr(
        os.path, "samefile", lambda a, b: samefile(str(a).replace("Model", "model"), str(b))
    )
    with pytest.raises(OutputError, match="is the input itself"):
        check_output(tmp_path / "Model", inputs=[tmp_path / "model"], overwrite=True)
    with pytest.raises(OutputError, match="inside the input"):
        check_output(tmp_path / "Model" / "out", inputs=[tmp_path / "model"])


def test_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "deep" / "er" / "out")
    assert tree(tmp_path / "deep" / "er" / "out") == written()
    with pytest.raises(ZeroDivisionError), output_directory(tmp_path / "new" / "er" / "out"):
        raise ZeroDivisionError
    assert names(tmp_path) == ["deep"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"'.*file' is no directory"):
        write(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match=r"'.*file' is no directory"):
        check_output(tmp_path / "file" / "deep" / "out")
    # Root may write anywhere, so the answer of the system is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="is not writable"):
        write(tmp_path / "out")


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9))
    with pytest.raises(OutputError, match=r"needs 2 GB, and 1 GB are free"):
        write(tmp_path / "out", nbytes=2 * 10**9)
    with pytest.raises(OutputError, match=r"needs 1\.05 GB, and 1 GB are free"):
        write(tmp_path / "out", nbytes=1_050_000_000)
    write(tmp_path / "out", nbytes=10**9)


def test_a_name_that_is_no_text_is_refused_before_any_work(tmp_path: Path):
    for refuse in (output_directory, atomic_file):
        with (
            pytest.raises(OutputError, match=r"ab\\xe9', is no UTF-8; choose another name"),
            refuse(tmp_path / "ab\udce9"),
        ):
            raise AssertionError
    with pytest.raises(OutputError, match="is no UTF-8"):
        check_output(tmp_path / "\udce9" / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "-", "a b\n'"])
def test_odd_names(tmp_path: Path, name: str):
    write(tmp_path / name)
    write(tmp_path / name, "newer", overwrite=True)
    assert tree(tmp_path / name) == written("newer")
    assert names(tmp_path) == [name]


TERMINATED = """
import sys, time
from hcnr.checkpoint import output_directory, atomic_file
with {"directory": output_directory, "file": atomic_file}[sys.argv[2]](sys.argv[1]) as work:
    (work / "a" if work.is_dir() else work).write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGTERM, "directory"), (signal.SIGTERM, "file"), (signal.SIGINT, "directory")],
)
def test_signals_leave_nothing(tmp_path: Path, number: signal.Signals, kind: str):
    child = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "out"), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Background jobs of a shell ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        assert len(names(tmp_path)) == 2
        child.send_signal(number)
        assert child.wait(30) in (128 + number, -number)
    assert names(tmp_path) == []


def test_signal_handlers_are_put_back_and_others_respected(tmp_path: Path):
    write(tmp_path / "a")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with output_directory(tmp_path / "b"):
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, mine)
    thread = threading.Thread(target=write, args=[tmp_path / "c"])
    thread.start()
    thread.join()
    assert tree(tmp_path / "c") == written()
