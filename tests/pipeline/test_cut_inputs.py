"""A checkpoint's file that somebody cuts while it is mapped: nothing half-written stays."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

import hcnr
from pairs import config

CHILD = """
import os, sys
from pathlib import Path

import hcnr
from hcnr.checkpoint import views
from hcnr.repair import changes
from pairs import config

views._LEAST_BYTES = 1
real = changes.perturbation


def cut(*arguments, **options):
    # Mapped by now, and so beyond what a call that reads would notice.
    for file in Path(sys.argv[1]).glob("*.safetensors"):
        os.truncate(file, 0)
    print("cut", flush=True)
    return real(*arguments, **options)


changes.perturbation = cut
hcnr.restore(
    sys.argv[1], sys.argv[2], out=sys.argv[3], statistics=sys.argv[4],
    config=config(compensation="none", cross_weight_ratio=float(sys.argv[5])),
)
"""


@pytest.mark.parametrize("ratio", [0.4, 1.0], ids=["before writing", "while writing"])
@pytest.mark.skipif(sys.platform != "linux", reason="how a process ends is the system's")
def test_it_ends_the_process_and_the_next_run_begins_anew(
    pair, statistics, tmp_path, ratio
) -> None:
    shutil.copytree(pair["base"], tmp_path / "base")
    saved, out = tmp_path / "statistics.safetensors", tmp_path / "out"
    statistics["output"].save(saved)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "base",
         pair["tuned"], out, saved, str(ratio)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "cut" in done.stdout, done.stderr
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert not out.exists()
    hcnr.restore(
        pair["base"], pair["tuned"], out=out, config=config(compensation="none"),
        statistics=saved,
    )  # fmt: skip
    # What the first one had begun is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", saved.name]
