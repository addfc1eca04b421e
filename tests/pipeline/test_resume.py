"""An interrupted restoration goes on where it stopped, and ends with the same bytes."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hcnr
from hcnr.checkpoint import kept_work
from hcnr.config import RestoreConfig
from hcnr.curvature.passes import Passes
from hcnr.data.repair_data import read_data
from hcnr.models.pair import Pair
from hcnr.pipeline.inputs import run_key
from hcnr.progress import Stages
from hcnr.record.writing import read_report

CASES: dict[str, dict[str, Any]] = {
    "neurons": {"compensation": "sum", "axis": "input"},
    "searched neurons": {
        "compensation": "balanced", "task_weight": "auto", "max_task_drop_percent": 90,
    },
    "default": {"compensation": "spectral", "task_weight": "auto", "max_task_drop_percent": 90},
    "blocks": {"compensation": "spectral", "task_weight": 2.0, "block_size": 8},
    "groups": {"compensation": "spectral", "task_weight": "auto", "max_task_drop_percent": 90,
               "memory_budget": 0.0002},
    "neurons in groups": {
        "compensation": "balanced", "task_weight": 2.0, "memory_budget": 0.0001,
    },
    "steps": {"compensation": "spectral+natural", "task_weight": 1.0, "steps": 2},
    "mixed": {"compensation": "interpolate", "coefficient": "auto", "max_task_drop_percent": 90},
}  # fmt: skip


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch):
    # Passes of a tiny model take hardly longer than writing what they find.
    monkeypatch.setattr(kept_work, "_RATE", 1e18)


class Stopping:
    """A watcher that presses Ctrl-C at its n-th event."""

    def __init__(self, at: int | None):
        self.events, self._at = 0, at

    def begin(self, stage: str) -> None:
        self._event()

    def advance(self, done: int, total: int) -> None:
        self._event()

    def _event(self) -> None:
        self.events += 1
        if self.events == self._at:
            raise KeyboardInterrupt


def settings(name: str) -> RestoreConfig:
    return RestoreConfig(samples=16, token_budget=64, **CASES[name])


def restore(learned: dict[str, Any], out: Path, name: str, at: int | None = None) -> int:
    """Restore, or be interrupted; returns the events that were seen."""
    watcher = Stopping(at)
    try:
        hcnr.restore(**learned, out=out, config=settings(name), watcher=watcher)
    except KeyboardInterrupt:
        assert not out.exists()
    return watcher.events


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.safetensors"))}


@pytest.mark.parametrize("name", CASES)
def test_interrupted_anywhere_it_ends_with_the_same_bytes(learned, tmp_path, name):
    whole, out = tmp_path / "whole", tmp_path / "out"
    events = restore(learned, whole, name)
    expected, verdict = weights(whole), read_report(whole)["verdict"]
    for at in random.Random(name).sample(range(2, events), k=6):
        # Twice: what was kept by the first is used, and kept on, by the second.
        for stop in (at, at // 2):
            restore(learned, out, name, stop)
            if out.exists():
                # With so little left to do it came to its end.
                assert weights(out) == expected
                shutil.rmtree(out)
    restore(learned, out, name)
    assert weights(out) == expected
    assert read_report(out)["verdict"] == verdict
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize("name", ["neurons", "default", "groups", "neurons in groups", "steps"])
def test_finished_passes_are_not_repeated(learned, tmp_path, monkeypatch, name):
    passes = []
    real = Passes.run

    def counted(self: Passes, *args: Any, **options: Any) -> Any:
        passes.append(1)
        return real(self, *args, **options)

    monkeypatch.setattr(Passes, "run", counted)
    events = restore(learned, tmp_path / "whole", name)
    whole = len(passes)
    # At the verdict: everything is finished but the losses of what was written.
    restore(learned, tmp_path / "out", name, events)
    kept = tmp_path / "out.unfinished"
    assert kept.is_dir()
    passes.clear()
    restore(learned, tmp_path / "out", name)
    assert len(passes) < whole / 2
    (note,) = [m for m in read_report(tmp_path / "out")["warnings"] if "taken over" in m]
    assert int(note.split()[0]) >= 3
    assert not kept.exists()


def test_killed_at_random_moments():
    """The short form of `tests/kill_restore.py`, in a process that has no threads to fork."""
    root = Path(__file__).parents[2]
    places = [root, root / "kernels", root / "tests", root / "tests" / "support"]
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "kill_restore.py"), "--kills", "8"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("8 kills in ")


def test_measuring_resumes_too(learned, tmp_path):
    config = RestoreConfig(samples=16, token_budget=64, compensation="balanced")
    pair = {key: learned[key] for key in ("base", "tuned", "honesty", "task")}
    whole = Stopping(None)
    expected = hcnr.measure(**pair, config=config, watcher=whole)
    file = tmp_path / "statistics.safetensors"
    with pytest.raises(KeyboardInterrupt) as raised:
        hcnr.measure(**pair, config=config, keep_for=file, watcher=Stopping(whole.events))
    assert vars(raised.value)["kept_work"] == tmp_path / "statistics.safetensors.unfinished"
    found = hcnr.measure(**pair, config=config, keep_for=file)
    found.save(file)
    expected.save(tmp_path / "expected.safetensors")
    assert file.read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    assert not vars(raised.value)["kept_work"].exists()


def test_another_configuration_begins_anew(learned, tmp_path):
    events = restore(learned, tmp_path / "whole", "default")
    restore(learned, tmp_path / "out", "default", events)
    hcnr.restore(**learned, out=tmp_path / "out", config=settings("default").replace(damping=0.02))
    (note,) = [m for m in read_report(tmp_path / "out")["warnings"] if "finished pass" in m]
    assert note.endswith("models, data, settings or versions differ")


def test_another_configuration_of_the_model_begins_anew(learned, tmp_path):
    """The same files of weights compute something else with it."""
    pair = {**learned}
    for role in ("base", "tuned"):
        pair[role] = shutil.copytree(learned[role], tmp_path / role, copy_function=shutil.copy2)
    events = restore(pair, tmp_path / "whole", "default")
    restore(pair, tmp_path / "out", "default", events)
    for role in ("base", "tuned"):
        file = pair[role] / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "rms_norm_eps": 0.3}))
    restore(pair, tmp_path / "out", "default")
    assert any("not used" in m for m in read_report(tmp_path / "out")["warnings"])
    restore(pair, tmp_path / "again", "default")
    assert weights(tmp_path / "out") == weights(tmp_path / "again")


def test_all_that_decides_is_in_the_key(learned, monkeypatch):
    config = settings("neurons")
    pair = Pair.open(learned["base"], learned["tuned"], config, Stages())
    data = read_data(pair, learned["honesty"], learned["task"], config, None, Stages())
    other = data.sets["task"]
    keys = set()

    def add(used=config, samples=data, statistics=None):
        keys.add(json.dumps(run_key(pair, used, samples, statistics), sort_keys=True))

    add()
    add()
    assert len(keys) == 1
    add(config.replace(damping=0.5))
    add(samples=data._replace(sets={**data.sets, "honesty": other}))
    add(samples=data._replace(held_back={"task": other}))
    measured = hcnr.measure(
        learned["base"], learned["tuned"], learned["honesty"], learned["task"], config
    )
    add(statistics=measured)
    next(iter(measured.scores["task"].values()))[0] += 1
    add(statistics=measured)
    pair.fingerprints["tuned"] = "another"
    add()
    monkeypatch.setattr("hcnr.pipeline.inputs.resolve_device", lambda _: "another")
    add()
    assert len(keys) == 8


def test_a_model_that_changed_meanwhile_begins_anew(learned, tmp_path):
    """Also where the fingerprint's few rows did not: by the files' times."""
    events = restore(learned, tmp_path / "whole", "default")
    restore(learned, tmp_path / "out", "default", events)
    for file in learned["tuned"].glob("*.safetensors"):
        os.utime(file, ns=(1, 1))
    restore(learned, tmp_path / "out", "default")
    assert any("not used" in m for m in read_report(tmp_path / "out")["warnings"])


@pytest.mark.parametrize("what", ["code_digest", "versions"])
def test_other_code_begins_anew(learned, tmp_path, monkeypatch, what):
    events = restore(learned, tmp_path / "whole", "default")
    restore(learned, tmp_path / "out", "default", events)
    monkeypatch.setattr(f"hcnr.pipeline.inputs.{what}", lambda: "another")
    restore(learned, tmp_path / "out", "default")
    assert any("not used" in m for m in read_report(tmp_path / "out")["warnings"])
