"""Killed at any moment: the old output or the new one, whole, and the next run succeeds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("crash_server.py")
NONE, OLD, NEW, LATER = "none", "5.0", "7.0", "9.0"


def crash(tmp_path: Path, mode: str, kind: str, old: bool) -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(SERVER), mode, kind, "old" if old else "new", str(tmp_path / "root")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(seen: list[dict], kind: str, old: bool) -> None:
    before = OLD if old else NONE
    for count, one in enumerate(seen):
        out = one["after"]["out"]
        # A replaced directory is away for the moment between two renames; it is not lost then.
        aside = ".out.hcnr-old" in one["after"]["others"].split()
        assert out in (before, NEW) or (old and kind == "directory" and out == NONE and aside), (
            count,
            one,
        )
        assert one["again"] == {"out": LATER, "others": ""}, (count, one)


@pytest.mark.parametrize("old", [False, True], ids=["absent", "replaced"])
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_killed_at_every_call_to_the_system(tmp_path: Path, kind: str, old: bool):
    seen = crash(tmp_path, "call", kind, old)
    check(seen, kind, old)
    assert [one["status"] for one in seen] == [9] * (len(seen) - 1) + [0]
    assert len(seen) > (30 if kind == "directory" else 8)
    outs = [one["after"]["out"] for one in seen]
    # It really died on both sides of the moment that counts, and left things to clean.
    assert outs[0] == (OLD if old else NONE)
    assert outs[-1] == NEW
    assert any(".out.hcnr-" in one["after"]["others"].replace("lock", "") for one in seen)
    if old and kind == "directory":
        assert NONE in outs


@pytest.mark.parametrize("old", [False, True], ids=["absent", "replaced"])
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_killed_at_random_moments(tmp_path: Path, kind: str, old: bool):
    seen = crash(tmp_path, "random", kind, old)
    check(seen, kind, old)
    assert any(one["status"] == -9 for one in seen)
    assert any(one["after"]["others"] for one in seen)
