"""Forks children that write an output and die at a chosen moment; prints what they leave.

A process of its own because forking pytest, with whatever threads earlier tests started, is not
safe. Run as `python -m tests...crash_server MODE DIRECTORY`, or by path.
"""

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
    atomic_file,
    copy_companions,
    output_directory,
    write_weights,
)

# Every call by which the room changes what is on the disk.
CALLS = (
    "open",
    "mkdir",
    "pwrite",
    "copy_file_range",
    "write",
    "fsync",
    "rename",
    "replace",
    "unlink",
    "rmdir",
)
SHAPE = (6, 4)


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

    def replacement(name: str) -> torch.Tensor | None:
        time.sleep(delay)
        return torch.full(SHAPE, value) if ".a." in name else None

    with output_directory(root / "out", inputs=[tuned.path], overwrite=True) as work:
        write_weights(tuned, work, replacement)
        copy_companions(tuned, work)


def save_one(root: Path, value: float, delay: float = 0.0) -> None:
    with atomic_file(root / "out") as work, work.open("wb", buffering=0) as file:
        for _ in range(5):
            time.sleep(delay)
            file.write(f"{value} ".encode())


def state(root: Path) -> dict[str, str]:
    """What lies at the output (a value when it is complete), and how many leftovers."""
    out = root / "out"
    found = "none"
    if out.is_file():
        words = set(out.read_text().split())
        found = words.pop() if len(out.read_text().split()) == 5 and len(words) == 1 else "broken"
    elif out.exists():
        try:
            written = Checkpoint.open(out)
            assert len(list(out.iterdir())) == 4
            values = {
                float(written.load(n)[i, j])
                for n in written.tensors
                if ".a." in n
                for i in range(SHAPE[0])
                for j in range(SHAPE[1])
            }
            assert all(bool((written.load(n) == 1).all()) for n in written.tensors if ".b." in n)
            assert len(values) == 1
            found = str(values.pop())
        except Exception as error:
            found = f"broken: {error!r}"
    others = sorted({entry.name for entry in root.iterdir()} - {"tuned", "out"})
    return {"out": found, "others": " ".join(others)}


def die_at(count: int) -> None:
    """Makes the process end at its `count`-th call to the system, before the call is made."""
    left = count

    def dying(call: Callable) -> Callable:
        def wrapper(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return call(*arguments, **options)

        return wrapper

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, dying(getattr(os, name)))


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
        finally:
            os._exit(code)
    return child


def observe(root: Path, work: Callable, status: int) -> dict[str, object]:
    after = state(root)
    work(root, 9.0)
    return {"status": status, "after": after, "again": state(root)}


def at_every_call(root: Path, old: bool, work: Callable) -> list[dict[str, object]]:
    seen = []
    for count in range(1, 1000):
        scene(root, old, work)

        def body(count: int = count) -> None:
            die_at(count)
            work(root, 7.0)

        _, status = os.waitpid(forked(body), 0)
        seen.append(observe(root, work, os.waitstatus_to_exitcode(status)))
        if status == 0:
            break
    return seen


def at_random_moments(root: Path, old: bool, work: Callable) -> list[dict[str, object]]:
    dice = random.Random(0)
    seen = []
    for _ in range(25):
        scene(root, old, work)
        child = forked(lambda: work(root, 7.0, 0.002))
        time.sleep(dice.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        seen.append(observe(root, work, os.waitstatus_to_exitcode(status)))
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, kind, old, root = sys.argv[1:]
    how = {"call": at_every_call, "random": at_random_moments}[mode]
    what = {"directory": restore, "file": save_one}[kind]
    print(json.dumps(how(Path(root), old == "old", what)))
