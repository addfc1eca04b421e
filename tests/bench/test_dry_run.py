"""The whole of `make gpu` at tiny shapes without a GPU, killed at random points: minutes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.context import is_bad
from bench.journal import Result, load
from bench.lean import ROOT
from bench.sections import SECTIONS

NAME = "cpu-dry-run"


def start(out: Path, log: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "bench/gpu.py", "--device", "cpu", "--quick", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "OUT"}
    with log.open("a") as file:
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=file, stderr=file, env=environment
        )


def rows(result: Result) -> set[tuple[str, str]]:
    return {
        (record["section"], record["title"])
        for record in result["records"]
        if "failed" not in record
    }


@pytest.mark.skipif("HCNR_DRY_RUN" not in os.environ, reason="HCNR_DRY_RUN is not set: minutes")
def test_the_whole_harness_killed_at_random_points_loses_nothing(tmp_path: Path) -> None:
    log, source = tmp_path / "log", random.Random(0)
    place, arguments = tmp_path / f"{NAME}-partial.json", ()
    before: set[tuple[str, str]] = set()
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path, log, *arguments)
        time.sleep(source.uniform(40, 150))
        process.send_signal(how)
        process.wait(30)
        found = rows(load(place))
        assert before <= found
        before, arguments = found, ("--append", str(place))
    state = load(place)
    for _ in range(10):
        start(tmp_path, log, *arguments).wait()
        state = load(place)
        assert before <= rows(state)
        if state["sections"].keys() >= SECTIONS.keys():
            break
    statuses = {name: entry["status"] for name, entry in state["sections"].items()}
    assert not any(map(is_bad, statuses.values())), (statuses, log.read_text()[-3000:])
    assert not [record for record in state["records"] if "failed" in record]
