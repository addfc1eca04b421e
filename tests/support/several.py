"""What `tests/test_ranks.py` starts by torchrun: each kind of repair in one go, of one pair.

`several.py PAIR OUT KIND...`, PAIR a JSON object of its four places. With `hold STAGE` in place of
kinds, all processes but the first stop at that stage and wait.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import hcnr
from hcnr import cli, ranks
from hcnr.config import RestoreConfig

LOOSE = {"max_task_drop_percent": 90}
CASES: dict[str, dict[str, Any]] = {
    "none": {"compensation": "none"},
    "sum": {"compensation": "sum", "axis": "input"},
    "joint": {"compensation": "joint"},
    "balanced": {"compensation": "balanced", "task_weight": "auto", **LOOSE},
    "spectral": {"compensation": "spectral", "task_weight": "auto", **LOOSE},
    "blocks": {"compensation": "spectral", "task_weight": 2.0, "block_size": 8},
    "groups": {"compensation": "spectral", "task_weight": "auto", "memory_budget": 0.0002, **LOOSE},
    "natural": {"compensation": "natural", "task_weight": 1.0, "steps": 2},
    "walk": {"compensation": "spectral+natural", "task_weight": 1.0, "steps": 2},
    "mixed": {"compensation": "interpolate", "coefficient": "auto", **LOOSE},
}


def settings(kind: str) -> RestoreConfig:
    return RestoreConfig(**{"samples": 16, "token_budget": 64, "device": "cpu", **CASES[kind]})


def restored(pair: dict[str, Any], out: Path, kinds: list[str]) -> None:
    """Restore a pair by each kind, into a directory each."""
    for kind in kinds:
        hcnr.restore(**pair, out=out / kind, config=settings(kind))


class _Holding:
    """A watcher that waits at a stage, so that somebody can end a process there."""

    def __init__(self, stage: str, out: Path):
        self._stage, self._out = stage, out

    def begin(self, stage: str) -> None:
        if stage == self._stage:
            rank = os.environ["RANK"]
            (self._out / f"{rank}.pid").write_text(str(os.getpid()))
            time.sleep(600 if rank != "0" else 0)

    def advance(self, done: int, total: int) -> None: ...


def main(pair: dict[str, Any], out: Path, kinds: list[str]) -> None:
    with ranks.started("cpu"):
        if kinds[0] == "hold":
            hcnr.restore(
                **pair, out=out / "held", config=settings("sum"),
                watcher=_Holding(kinds[1], out),
            )  # fmt: skip
        else:
            restored(pair, out, kinds)


if __name__ == "__main__":
    cli.run(lambda: main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
