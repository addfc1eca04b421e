"""Forks children that write an output and die at a chosen moment; prints what they leave.

A process of its own because forking pytest, with whatever threads earlier tests started, is not
safe. Run by path with one argument, a directory that may be deleted.
"""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from hcnr.checkpoint import (
    Checkpoint,
    Spliced,
    atomic_file,
    copy_companions,
    output_directory,
    write_weights,
)
from hcnr.errors import OutputError

# Every call by which the room changes what is on the disk.
CALLS = (
    "open",
    "mkdir",
    "pwrite",
    "pwritev",
    "copy_file_range",
    "write",
    "fsync",
    "rename",
    "replace",
    "unlink",
    "rmdir",
)
SHAPE = (6, 4)
DEAD, REFUSED, SWALLOWED = 9, 3, 4


def make(directory: Path) -> None:
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    weight_map = {}
    for shard in ("model-1.safetensors", "model-2.safetensors"):
        names = [f"{shard[:7]}.{matrix}.weight" for matrix in "ab"]
        save_file({name: torch.ones(SHAPE) for name in names}, directory / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def restore(root: Path, value: float, delay: float = 0.0) -> None:
    tuned = Checkpoint.open(root / "tuned")

    def replacement(name: str) -> torch.Tensor | Spliced | None:
        time.sleep(delay)
        if ".a." not in name:
            return None
        new = torch.full(SHAPE, value)
        # Of one shard as rows that lie at several places.
        return Spliced(new, new, torch.arange(len(new)) % 2 == 0) if "model-1" in name else new

    with output_directory(root / "out", inputs=[tuned.path], overwrite=True) as work:
        write_weights(tuned, work, replacement)
        copy_companions(tuned, work)


def save_one(root: Path, value: float, delay: float = 0.0) -> None:
    with atomic_file(root / "out") as work, work.open("wb", buffering=0) as file:
        for _ in range(5):
            time.sleep(delay)
            file.write(f"{value} ".encode())


def content(out: Path) -> str:
    """The value that a complete output holds, or what is wrong with it."""
    if not out.exists():
        return "none"
    try:
        if out.is_file():
            words = out.read_text().split()
            assert len(words) == 5
            values = set(words)
        else:
            assert len(list(out.iterdir())) == 4
            written = Checkpoint.open(out)
            tensors = {name: written.load(name).unique() for name in written.tensors}
            assert all(values.tolist() == [1] for name, values in tensors.items() if ".b." in name)
            values = {str(v) for name in tensors if ".a." in name for v in tensors[name].tolist()}
        assert len(values) == 1
        return values.pop()
    except Exception as error:
        return f"broken: {error!r}"


def state(root: Path) -> dict[str, str]:
    """What lies at the output and at its place aside, and the names of all leftovers."""
    others = sorted({entry.name for entry in root.iterdir()} - {"tuned", "out"})
    return {
        "out": content(root / "out"),
        "aside": content(root / ".out.hcnr-old"),
        "others": " ".join(others),
    }


def fail_at(count: int, fail: Callable[[], object]) -> Callable[[], bool]:
    """Makes the `count`-th call to the system fail, instead of being made."""
    left = count

    def failing(call: Callable) -> Callable:
        def wrapper(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                fail()
            return call(*arguments, **options)

        return wrapper

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, failing(getattr(os, name)))
    return lambda: left <= 0


def die() -> None:
    os._exit(DEAD)


def interrupt() -> None:
    raise KeyboardInterrupt


def fill() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def scene(root: Path, old: bool, work: Callable) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    make(root / "tuned")
    if old:
        work(root, 5.0)


def forked(body: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            body()
            code = 0
        except (KeyboardInterrupt, OutputError):
            code = REFUSED
        finally:
            os._exit(code)
    return child


def observe(root: Path, work: Callable, child: int) -> dict[str, object]:
    _, status = os.waitpid(child, 0)
    after = state(root)
    work(root, 9.0)
    return {"status": os.waitstatus_to_exitcode(status), "after": after, "again": state(root)}


def at_every_call(fail: Callable[[], object]) -> Callable:
    def run(root: Path, old: bool, work: Callable) -> list[dict[str, object]]:
        seen = []
        while not seen or (seen[-1]["status"] and len(seen) < 1000):
            scene(root, old, work)

            def body(count: int = len(seen) + 1) -> None:
                happened = fail_at(count, fail)
                work(root, 7.0)
                if happened():
                    # Swallowed, as it may be while cleaning up: there may be more calls to fail.
                    os._exit(SWALLOWED)

            seen.append(observe(root, work, forked(body)))
        return seen

    return run


def at_random_moments(number: int) -> Callable:
    def run(root: Path, old: bool, work: Callable) -> list[dict[str, object]]:
        dice = random.Random(0)
        seen = []
        for _ in range(12):
            scene(root, old, work)
            child = forked(lambda: work(root, 7.0, 0.002))
            time.sleep(dice.uniform(0, 0.02))
            os.kill(child, number)
            seen.append(observe(root, work, child))
        return seen

    return run


MODES = {
    "killed": at_every_call(die),
    "interrupted": at_every_call(interrupt),
    "full": at_every_call(fill),
    "random": at_random_moments(signal.SIGKILL),
    "pressed": at_random_moments(signal.SIGINT),
}
KINDS = {"directory": restore, "file": save_one}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    # A killed process loses nothing that the kernel has; only a power cut would.
    os.fsync = lambda _: None
    seen = {
        f"{mode} {kind} {'replaced' if old else 'absent'}": run(root, old, work)
        for mode, run in MODES.items()
        for kind, work in KINDS.items()
        for old in (False, True)
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
