"""What `tests/test_ranks.py` starts by torchrun: each kind of repair in one go, of one pair.

`several.py PAIR OUT KIND...`, PAIR a JSON object of its four places. With `hold STAGE` in place of
kinds, or behind them, all processes but the first stop at that stage and wait; with `hold-in STAGE`
in the middle of it. With `given FILE KIND...` the statistics are those of a file; the kind `full`
meets a full disk in process 1 and `apart` a process 1 that shares no disk. With `uses` the models
of `tests/support/uses.py` are measured into files of OUT, and then a pass of process 1 is refused.
"""

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import hcnr
import uses
from hcnr import cli, ranks
from hcnr.config import RestoreConfig
from hcnr.curvature.layouts import RowsError
from hcnr.curvature.passes import Attempt, Passes
from hcnr.pipeline import destination
from hcnr.repair import repairs

LOOSE = {"max_task_drop_percent": 90}
CASES: dict[str, dict[str, Any]] = {
    "none": {"compensation": "none"},
    "sum": {"compensation": "sum", "axis": "input"},
    "full": {"compensation": "joint"},
    "apart": {"compensation": "joint"},
    "joint": {"compensation": "joint"},
    "balanced": {"compensation": "balanced", "task_weight": "auto", **LOOSE},
    "spectral": {"compensation": "spectral", "task_weight": "auto", **LOOSE},
    "blocks": {"compensation": "spectral", "task_weight": 2.0, "block_size": 8},
    "groups": {"compensation": "spectral", "task_weight": "auto", "memory_budget": 0.0002, **LOOSE},
    "neuron groups": {"compensation": "balanced", "task_weight": 2.0, "memory_budget": 0.0001},
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
    """A watcher that waits at a stage or within it, so that somebody can end a process there."""

    def __init__(self, stage: str, out: Path, within: bool):
        self._stage, self._out, self._within = stage, out, within
        self._now = ""

    def begin(self, stage: str) -> None:
        self._now = stage
        if not self._within:
            self._wait()

    def advance(self, done: int, total: int) -> None:
        if self._within and done == total:
            self._wait()

    def _wait(self) -> None:
        if self._now == self._stage:
            rank = os.environ["RANK"]
            (self._out / f"{rank}.pid").write_text(str(os.getpid()))
            time.sleep(600 if rank != "0" else 0)


def given(pair: dict[str, Any], out: Path, statistics: str, kinds: list[str]) -> None:
    """Restore from statistics, and leave beside each output who has written which files."""
    rank, write, pwrite, sees = ranks.rank(), repairs.write_copy, os.pwrite, destination._sees

    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for kind in kinds:

        def noted(
            tuned: Any, directory: Path, new: Any, told: Any, files: Any, kind: str = kind
        ) -> None:
            names = sorted(f.file.name for f in tuned.shards) if files is None else sorted(files)
            (out / f"{kind}-{rank}.json").write_text(json.dumps(names))
            write(tuned, directory, new, told, files)

        repairs.write_copy = noted
        os.pwrite = refuse if kind == "full" and rank == 1 else pwrite
        destination._sees = (lambda *_: False) if kind == "apart" and rank == 1 else sees
        hcnr.restore(
            pair["base"], pair["tuned"], out=out / kind, config=settings(kind),
            statistics=statistics,
        )  # fmt: skip


def measured(out: Path) -> None:
    """All that is measured of matrices that are used several times; at last one pass fails."""
    for name in uses.MODELS:
        found = {key: one.clone() for key, one in uses.measured(name).items()}
        save_file(found, out / f"{name}-{os.environ['RANK']}.safetensors")

    def refuse(attempt: Attempt) -> None:
        if os.environ["RANK"] == "1":
            raise RowsError("a.matrix", "5 rows", "2 x 4 tokens")

    Passes(uses.MODELS["parting"](), uses.DATA, 64).run(refuse)


def main(pair: dict[str, Any], out: Path, kinds: list[str]) -> None:
    with ranks.started("cpu"):
        if kinds[0] == "uses":
            measured(out)
        elif kinds[0] == "given":
            given(pair, out, kinds[1], kinds[2:])
        elif kinds[-2:-1] in (["hold"], ["hold-in"]):
            *before, how, stage = kinds
            restored(pair, out, before)
            hcnr.restore(
                **pair, out=out / "held", config=settings("sum"),
                watcher=_Holding(stage, out, how == "hold-in"),
            )  # fmt: skip
        else:
            restored(pair, out, kinds)


if __name__ == "__main__":
    cli.run(lambda: main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
