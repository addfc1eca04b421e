"""Several processes measure and restore together: what one process finds, or one sentence."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import several
from commands import run
from hcnr import cli, ranks
from hcnr.errors import RankError
from hcnr.record.writing import read_report
from hcnr.settings import FormerName

SCRIPT = Path(several.__file__)
PATHS = [
    place for name in ("", "kernels", "tests", "tests/support")
    for place in [str(Path(__file__).parents[1] / name)]
]  # fmt: skip


def launched(count, *command):
    """Processes of torchrun, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc-per-node", str(count), *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)},
    )  # fmt: skip


def finished(process, code=0):
    """What it printed, when it ended as expected."""
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert (process.returncode == 0) == (code == 0), out + err
    return out, err


def sentences(text):
    return [line for line in text.splitlines() if line.startswith("hcnr: ")]


@pytest.fixture
def places(learned):
    return {name: str(learned[name]) for name in ("base", "tuned", "honesty", "task")}


def compared(one: Path, more: Path) -> float:
    """Largest difference of a tensor, relative to its norm; the reports must tell the same."""
    first, second = read_report(one), read_report(more)
    assert first["verdict"]["word"] == second["verdict"]["word"]
    for key in ("selection", "matrices"):
        assert _plain(first.get(key)) == _plain(second.get(key))
    assert any("processes measured together" in note for note in second["warnings"])
    assert not any("processes measured together" in note for note in first["warnings"])
    worst, files = 0.0, sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in more.iterdir())
    for name in (name for name in files if name.endswith(".safetensors")):
        left, right = load_file(one / name), load_file(more / name)
        assert left.keys() == right.keys()
        for key, tensor in left.items():
            worst = max(worst, float((tensor - right[key]).norm() / tensor.norm()))
    return worst


def _plain(value):
    """Names, counts and words of a part of the report: what rounding must not change."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) else value


@pytest.mark.parametrize(("count", "kinds"), [(2, ["sum", "walk", "mixed"]), (3, ["spectral"])])
def test_several_processes_restore_what_one_does(places, tmp_path, count, kinds):
    one, more = tmp_path / "one", tmp_path / "more"
    several.restored(places, one, kinds)
    finished(launched(count, SCRIPT, json.dumps(places), more, *kinds))
    found = {kind: compared(one / kind, more / kind) for kind in kinds}
    print(count, found)
    assert max(found.values()) < 1e-4
    # Nothing but the outputs: no work kept, no temporary.
    assert sorted(path.name for path in more.iterdir()) == sorted(kinds)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_with_one_sentence(places, tmp_path, rank):
    process = launched(2, SCRIPT, json.dumps(places), tmp_path, "hold", "score honesty")
    end = time.monotonic() + 300
    while not (tmp_path / "1.pid").exists() or not (tmp_path / "0.pid").exists():
        assert process.poll() is None and time.monotonic() < end, finished(process, code=1)
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(int((tmp_path / f"{rank}.pid").read_text()), signal.SIGKILL)
    _, err = finished(process, code=1)
    (sentence,) = sentences(err)
    assert "process" in sentence and "ended" in sentence and "nothing is written" in sentence
    assert not (tmp_path / "held").exists()


def test_other_commands_are_refused_in_several_processes(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                        "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    shown = run("evaluate", "model", "--help-me-not", code=2)
    assert "started in 2 processes, and only restore and measure" in shown.stderr
    assert run("restore", "--help").returncode == 0


def test_one_process_exchanges_nothing():
    one = {"a": torch.ones(2)}
    assert ranks.summed("x", one, torch.device("cpu"))["a"] is one["a"]
    assert ranks.share(range(3), [1, 5, 2]) == range(3)
    assert ranks.gathered("x", 4) == [4] and ranks.decided("x", 4) == 4
    assert ranks.size() == 1 and ranks.leads() and ranks.owns(5) and ranks.speaks()


def test_what_cleans_up_is_not_cut_short_by_the_launcher():
    kept, cleaned = signal.getsignal(signal.SIGTERM), []
    try:
        with pytest.raises(RankError, match="the first cause"), ranks._told_to_end():
            try:
                raise RankError("the first cause")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                cleaned.append(True)
        # Nor is the sentence that follows.
        assert cleaned and signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        with pytest.raises(RankError, match="the launcher was told"), ranks._told_to_end():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, kept)


@pytest.mark.parametrize(("rank", "local", "says"), [(8, 0, True), (9, 1, False)])
def test_before_they_have_met_one_process_of_every_machine_speaks(monkeypatch, rank, local, says):
    for name, value in {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": 16,
                        "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    assert ranks.speaks() is says


def test_a_process_that_dies_after_the_result_is_in_its_place_undoes_nothing(monkeypatch):
    class Store:
        def set(self, key, value):
            os.kill(os.getpid(), signal.SIGTERM)

        def add(self, key, amount):
            return 1

    kept = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with ranks._told_to_end():
        ranks._leave(ranks._Group(0, 2, Store(), 1.0))
    assert signal.getsignal(signal.SIGTERM) is kept


def test_a_note_before_they_have_met_is_the_first_process_s(monkeypatch, capsys):
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for rank, notes in (("0", 1), ("1", 0)):
        for name, value in {"RANK": rank, **places}.items():
            monkeypatch.setenv(name, value)
        cli.run(lambda: warnings.warn("a former name", FormerName, stacklevel=1))
        assert capsys.readouterr().err.count("note: a former name") == notes
