"""What a killed run leaves in TMPDIR goes at the next start; what lives stays."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from hcnr import scratch
from hcnr.scratch import Scratch, remove_abandoned, scratch_directory

HOLDS = """
import sys
from hcnr.scratch import Scratch
place = Scratch().path
(place / "half").write_text("half")
print(place, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def another(root: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process that holds a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], env={**os.environ, "TMPDIR": str(root)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_directory_is_there_and_goes(root):
    with scratch_directory() as place:
        (place / "a").write_text("a")
        assert names(root) == [place.name, f"{place.name}.lock"]
        assert place.stat().st_mode & 0o077 == 0
        remove_abandoned()
        assert (place / "a").read_text() == "a"
    assert names(root) == []
    kept = Scratch()
    kept.close()
    kept.close()
    assert names(root) == []
    with pytest.raises(KeyboardInterrupt), scratch_directory():
        raise KeyboardInterrupt
    assert names(root) == []


def test_what_a_killed_process_left_goes_and_what_a_live_one_has_stays(root):
    process, place = another(root)
    try:
        remove_abandoned()
        assert (place / "half").read_text() == "half"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (place / "half").is_file()
        remove_abandoned()
        assert names(root) == []
    finally:
        process.kill()
        process.communicate()


def test_killed_between_lock_and_directory_leaves_nothing_for_good(root):
    (root / "hcnr-0123abcd.lock").touch()
    remove_abandoned()
    assert names(root) == []


def test_what_is_not_ours_stays(root, tmp_path_factory):
    """Other names, directories without a lock, and whatever a link leads to."""
    for name in ("hcnr-0123abcd", "hcnr-notes", "other-0123abcd"):
        (root / name).mkdir()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").touch()
    (root / "hcnr-1111aaaa").symlink_to(elsewhere)
    (root / "hcnr-1111aaaa.lock").touch()
    (root / "hcnr-2222bbbb.lock").symlink_to(elsewhere / "file")
    remove_abandoned()
    assert {"hcnr-0123abcd", "hcnr-notes", "other-0123abcd", "hcnr-2222bbbb.lock"} <= {*names(root)}
    assert (elsewhere / "file").is_file()


def test_where_files_cannot_be_locked_nothing_is_removed(root, monkeypatch):
    def unable(*_):
        raise OSError(37, "No locks available")

    with scratch_directory() as other:
        monkeypatch.setattr(scratch.fcntl, "flock", unable)
        remove_abandoned()
        assert other.is_dir()
        with scratch_directory() as place:
            assert place.is_dir() and not place.with_suffix(".lock").exists()
            remove_abandoned()
            assert place.is_dir()
        assert not place.exists()


def test_many_make_and_sweep_at_once(root):
    """A directory that somebody uses is never taken for one that was left."""
    lost: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(60):
                with scratch_directory() as place:
                    (place / "file").write_text(str(number))
                    remove_abandoned()
                    assert (place / "file").read_text() == str(number)
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == [] and names(root) == []


def test_a_run_begins_by_cleaning(root, pair, monkeypatch):
    from hcnr.models.pair import Pair
    from hcnr.progress import Stages
    from pairs import config

    (root / "hcnr-0123abcd").mkdir()
    (root / "hcnr-0123abcd.lock").touch()
    Pair.open(pair["base"], pair["tuned"], config(), Stages())
    assert names(root) == []
