"""What `tests/test_ranks.py` starts by torchrun: each kind of repair in one go, of one pair.

`several.py PAIR OUT KIND...`, PAIR a JSON object of its four places. With `hold STAGE` in place of
kinds, all processes but the first stop at that stage and wait. With `uses` the models of
`tests/support/uses.py` are measured into files of OUT, and then a pass of process 1 is refused.
"""

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

LOOSE = {"max_task_drop_percent": 90}
CASES: dict[str, dict[str, Any]] = {
    "none": {"compensation": "none"},
    "sum": {"compensation": "sum", "axis": "input"},
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
    """A watcher that waits at a stage, so that somebody can end a process there."""

    def __init__(self, stage: str, out: Path):
        self._stage, self._out = stage, out

    def begin(self, stage: str) -> None:
        if stage == self._stage:
            rank = os.environ["RANK"]
            (self._out / f"{rank}.pid").write_text(str(os.getpid()))
            time.sleep(600 if rank != "0" else 0)

    def advance(self, done: int, total: int) -> None: ...


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
        elif kinds[0] == "hold":
            hcnr.restore(
                **pair, out=out / "held", config=settings("sum"),
                watcher=_Holding(kinds[1], out),
            )  # fmt: skip
        else:
            restored(pair, out, kinds)


if __name__ == "__main__":
    cli.run(lambda: main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
