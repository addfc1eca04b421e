"""Kill a restoration at random moments, and look at what is there afterwards.

    PYTHONPATH=tests:tests/support python tests/kill_restore.py --kills 1000

Each round a process that restores a tiny pair is killed (SIGKILL) after a random time, again and
again, until one comes to its end. After every kill the output must be absent or complete, and
nothing lie beside it but what the next run uses or removes; at the end of a round its bytes are
those of a run that was never interrupted. The inputs stay untouched, and what killed runs left in
TMPDIR goes when another one starts.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import hcnr
from hcnr.checkpoint import kept_work
from hcnr.config import RestoreConfig
from hcnr.record.writing import read_report
from hcnr.scratch import remove_abandoned
from pairs import write_pair
from wholes import write_learned

CASES: dict[str, dict[str, Any]] = {
    "default": {"compensation": "spectral", "task_weight": "auto", "max_task_drop_percent": 90},
    "groups": {"compensation": "spectral", "task_weight": 1.0, "memory_budget": 0.0002},
    "neurons": {"compensation": "sum"},
    "steps": {"compensation": "natural", "task_weight": 1.0, "steps": 1},
}
FINISHED, FAILED = 0, 3


def digest(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of weights in a directory."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob("*.safetensors"))
    }


def restore(pair: dict[str, Any], out: Path, name: str) -> None:
    config = RestoreConfig(samples=16, token_budget=64, **CASES[name])
    hcnr.restore(**pair, out=out, config=config)


@contextlib.contextmanager
def child(pair: dict[str, Any], out: Path, name: str) -> Iterator[int]:
    """A process of its own that restores; it starts at once, as everything is imported already."""
    process = os.fork()
    if process == 0:
        # No cleaning up of what is the parent's.
        try:
            restore(pair, out, name)
            os._exit(FINISHED)
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(FAILED)
    yield process


def killed(pair: dict[str, Any], out: Path, name: str, seconds: float) -> bool:
    """Whether a restoration was killed after some time; False where it came to its end first."""
    with child(pair, out, name) as process:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                assert os.waitstatus_to_exitcode(status) == FINISHED, "a run failed"
                return False
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        return os.WIFSIGNALED(status)


def check(out: Path, expected: dict[str, str]) -> None:
    """The output is absent or complete; beside it lies what is ours alone."""
    if out.exists():
        assert digest(out) == expected, "an output is there and not complete"
        assert (out / "hcnr_report.json").is_file() and (out / "README.md").is_file()
    for path in out.parent.iterdir():
        ours = path.name.startswith((f".{out.name}.", f".{out.name}.unfinished."))
        assert ours or path.name in (out.name, f"{out.name}.unfinished"), path


def rounds(kills: int, seed: int, root: Path) -> tuple[int, int, int]:
    """Kill so many times; returns kills, rounds, and runs that took finished passes over."""
    random_ = random.Random(seed)
    pair = write_learned(write_pair(root / "pair"), root / "learned")
    inputs = [*pair["base"].iterdir(), *pair["tuned"].iterdir(), pair["honesty"], pair["task"]]
    before = {path: path.read_bytes() for path in inputs}
    expected, seconds = {}, {}
    for name in CASES:
        # The first one warms up what every later run finds warm.
        for place in ("warm", "whole"):
            start = time.monotonic()
            restore(pair, root / f"{place}-{name}", name)
            seconds[name] = time.monotonic() - start
        expected[name] = digest(root / f"whole-{name}")
    tempfile.tempdir = str(scratch := root / "scratch")
    scratch.mkdir()
    count = done = resumed = 0
    while count < kills:
        name = random_.choice(list(CASES))
        place = root / "work"
        place.mkdir()
        out = place / "out"
        last, longest = False, 1.1 * seconds[name]
        while not out.exists() and count < kills:
            last = killed(pair, out, name, random_.uniform(0, longest))
            count += last
            # A machine that is busier now than at first would be killed at the beginning alone.
            longest *= 1.05
            check(out, expected[name])
        if not out.exists():
            restore(pair, out, name)
            last = False
        done += 1
        assert digest(out) == expected[name], f"{name}: other bytes than without a kill"
        # One that was killed between its rename and its cleaning up has left its own.
        left = sorted(path.name for path in place.iterdir())
        assert last or left == ["out"], f"left behind: {left}"
        resumed += any("taken over" in note for note in read_report(out)["warnings"])
        shutil.rmtree(place)
        print(f"{count} kills, {done} runs, {resumed} resumed; last: {name}", file=sys.stderr)
    remove_abandoned()
    assert not list(scratch.glob("hcnr-*")), "a killed run's temporary files stay"
    assert {path: path.read_bytes() for path in inputs} == before, "an input was changed"
    return count, done, resumed


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Passes of a tiny model take hardly longer than writing what they find.
    kept_work._RATE = 1e18
    with tempfile.TemporaryDirectory() as directory:
        count, done, resumed = rounds(options.kills, options.seed, Path(directory))
    print(f"{count} kills in {done} restorations; {resumed} took finished passes over at the end")


if __name__ == "__main__":
    main()
