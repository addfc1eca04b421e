"""Several processes measure and restore together: what one process finds, or one sentence."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import run as launcher
from transformers import AutoModelForCausalLM

import hcnr
import several
import uses
from commands import run
from forks import Forked
from hcnr import cli, ranks
from hcnr.curvature.layouts import RowsError
from hcnr.errors import ConfigError, RankError
from hcnr.progress import WRITE
from hcnr.ranks import exchange, meeting
from hcnr.ranks.group import RunGroup, sharing
from hcnr.record.writing import read_report
from hcnr.settings import FormerName

SCRIPT = str(several.__file__)
FORKING = ["--start-method", "fork", "--run-path"]
"""Options of torchrun for processes that the launcher forks, in place of commands."""


def launched(tmp_path, count, *arguments):
    """Processes of torchrun, begun: the launcher and they have everything imported."""
    command = [*FORKING, "--standalone", "--nproc-per-node", count, SCRIPT, *arguments]
    return Forked(tmp_path / "launched", launcher.main, [*map(str, command)])


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


@pytest.fixture(scope="module")
def places(learned, tmp_path_factory):
    """The pair, tuned in several weight files, so that each process writes some."""
    tuned = tmp_path_factory.mktemp("sharded") / "tuned"
    shutil.copytree(learned["tuned"], tuned)
    (tuned / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(learned["tuned"])
    model.save_pretrained(tuned, max_shard_size="12KB")
    found = {name: str(learned[name]) for name in ("base", "honesty", "task")}
    return {**found, "tuned": str(tuned)}


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


def killed(process, place, rank):
    """Its sentences, after one of two processes was killed as soon as both have come to a stage."""
    end = time.monotonic() + 300
    while not (place / "1.pid").exists() or not (place / "0.pid").exists():
        assert process.poll() is None and time.monotonic() < end, finished(process, code=1)
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(int((place / f"{rank}.pid").read_text()), signal.SIGKILL)
    return sentences(finished(process, code=1)[1])


TYPED = ["sum", "neuron groups", "walk", "mixed"]


@pytest.fixture(scope="module")
def typed(places, tmp_path_factory):
    """Two commands of torchrun that restore by several kinds; then one of them is killed.

    All others are forked: each of these begins with nothing.
    """
    out = tmp_path_factory.mktemp("typed")
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         SCRIPT, json.dumps(places), str(out), *TYPED, "hold", "score honesty"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return out, killed(process, out, 1)


def test_two_processes_restore_what_one_does(places, typed, tmp_path):
    more, _ = typed
    several.restored(places, tmp_path, TYPED)
    found = {kind: compared(tmp_path / kind, more / kind) for kind in TYPED}
    print(found)
    assert max(found.values()) < 1e-4
    # Nothing but the outputs: no work kept, no temporary.
    assert sorted(path.name for path in more.iterdir()) == ["0.pid", "1.pid", *sorted(TYPED)]


def test_three_processes_restore_what_one_does(places, tmp_path):
    one, more = tmp_path / "one", tmp_path / "more"
    several.restored(places, one, ["spectral"])
    finished(launched(tmp_path, 3, json.dumps(places), more, "spectral"))
    assert compared(one / "spectral", more / "spectral") < 1e-4
    assert [path.name for path in more.iterdir()] == ["spectral"]


def one_sentence(found):
    (sentence,) = found
    return "process" in sentence and "ended" in sentence and "nothing is written" in sentence


def test_a_killed_command_ends_the_run_with_one_sentence(typed):
    assert one_sentence(typed[1])
    assert not (typed[0] / "held").exists()


@pytest.mark.parametrize(
    ("rank", "how", "stage"), [(0, "hold", "score honesty"), (1, "hold-in", WRITE)]
)
def test_a_killed_process_ends_the_run_with_one_sentence(places, tmp_path, rank, how, stage):
    process = launched(tmp_path, 2, json.dumps(places), tmp_path, how, stage)
    assert one_sentence(killed(process, tmp_path, rank))
    assert not (tmp_path / "held").exists()
    if rank:
        # A first process that is killed leaves what the next run cleans up.
        assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.fixture(scope="module")
def measured(places, tmp_path_factory):
    """The pair, and a file of statistics for any kind along the output axis."""
    settings = several.settings("joint").replace(all_hessians=True, compensation="balanced")
    file = tmp_path_factory.mktemp("measured") / "statistics"
    hcnr.measure(**places, config=settings).save(file)
    return places, file


def weights(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.safetensors*")}


def without_times(directory):
    report = json.loads(json.dumps(read_report(directory)))
    del report["seconds"], report["summary"]["seconds"], report["warnings"]
    return {key: one for key, one in report.items() if key != "date"}


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_the_bytes_that_one_does(measured, tmp_path, count):
    places, file = measured
    one, more = tmp_path / "one", tmp_path / "more"
    more.mkdir()
    kinds = ["none", "joint", "apart"]
    for kind in kinds:
        hcnr.restore(places["base"], places["tuned"], out=one / kind,
                     config=several.settings(kind), statistics=file)  # fmt: skip
    finished(launched(tmp_path, count, json.dumps(places), more, "given", file, *kinds))
    sizes = {path.name: path.stat().st_size for path in (one / "none").glob("*.safetensors")}
    assert len(sizes) >= count
    for kind in kinds:
        assert weights(one / kind) == weights(more / kind)
        assert without_times(one / kind) == without_times(more / kind)
        assert {p.name for p in (one / kind).iterdir()} == {p.name for p in (more / kind).iterdir()}
        found = [more / f"{kind}-{rank}.json" for rank in range(count)]
        notes = [note for note in read_report(more / kind)["warnings"] if "share no disk" in note]
        if kind == "apart":
            assert [path.exists() for path in found] == [True] + [False] * (count - 1)
            assert len(notes) == 1
            continue
        shares = [json.loads(path.read_text()) for path in found]
        assert sorted(name for share in shares for name in share) == sorted(sizes)
        loads = [sum(sizes[name] for name in share) for share in shares]
        assert min(loads) > 0 and max(loads) - min(loads) <= max(sizes.values())
        assert not notes
    assert not any(path.name.startswith(".") for path in more.iterdir())


def test_a_full_disk_of_one_process_is_its_sentence_and_no_output(measured, tmp_path):
    places, file = measured
    process = launched(tmp_path, 2, json.dumps(places), tmp_path, "given", file, "full")
    _, err = finished(process, code=1)
    (sentence,) = sentences(err)
    assert "cannot write" in sentence and "No space left" in sentence
    assert not (tmp_path / "full").exists()
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_matrices_that_are_used_several_times_and_an_error_of_one_process(tmp_path):
    """Processes of which one meets a second use, or a shared input, and others do not."""
    process = launched(tmp_path, 3, "{}", tmp_path, "uses")
    _, err = finished(process, code=1)
    for name in uses.MODELS:
        exact = uses.measured(name)
        for rank in range(3):
            found = load_file(tmp_path / f"{name}-{rank}.safetensors")
            assert found.keys() == exact.keys()
            for key, tensor in exact.items():
                assert float((found[key] - tensor).norm()) <= 1e-5 * float(tensor.norm()), key
    # An error whose class cannot be made again of its words.
    (sentence,) = sentences(err)
    assert "a.matrix handles 5 rows while the batch has 2 x 4 tokens" in sentence


def test_what_one_process_found_wrong_is_raised_by_all(monkeypatch):
    error = RowsError("a.matrix", "5 rows", "2 x 4 tokens", "a.*")

    monkeypatch.setattr(exchange, "gathered", lambda _, value: [None, ("another", ""), value])
    with pytest.raises(RowsError) as own:
        exchange.agreed(error)
    assert own.value is error
    kept = pickle.dumps((type(error), str(error)))
    monkeypatch.setattr(exchange, "gathered", lambda *_: [None, pickle.loads(kept)])
    with pytest.raises(RowsError, match=r"^a\.matrix handles 5 rows.*--ignore 'a\.\*'$"):
        exchange.agreed(None)
    monkeypatch.setattr(exchange, "gathered", lambda *_: [None, None])
    exchange.agreed(None)


@pytest.mark.parametrize("other", [(1, "another"), (2, "losses")])
def test_processes_that_exchange_different_things_are_told_apart(monkeypatch, other):
    def gather(found, value):
        found[:] = [value, (*other, 5)]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    came_apart = rf"came apart: they exchange 'losses' \(1\), '{other[1]}' \({other[0]}\)"
    with sharing(RunGroup(0, 2, None, 1.0)), pytest.raises(RankError, match=came_apart):
        ranks.gathered("losses", 4)
    other = (1, "losses")
    with sharing(RunGroup(0, 2, None, 1.0)):
        assert ranks.gathered("losses", 4) == [4, 5]
        other = (2, "losses")
        assert ranks.decided("losses", 4) == 4


def test_sums_and_counts_are_over_all_and_the_first_decides(monkeypatch):
    theirs = {}

    def gather(found, value):
        found[:] = [value, (*value[:2], theirs)]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    with sharing(RunGroup(0, 2, None, 1.0)):
        theirs = {"a": 2, "b": 3}
        assert ranks.counted("x", {"a": 1, "c": 4}) == {"a": 3, "b": 3, "c": 4}
        assert ranks.merged("x", {"a": 1, "c": 4}) == {"a": 1, "b": 3, "c": 4}
    with sharing(RunGroup(1, 3, None, 1.0)):
        assert ranks.size() == 3 and not ranks.leads()
        assert [ranks.owns(place) for place in range(4)] == [False, True, False, False]
        assert list(ranks.share([0, 2, 3, 4], [9, 1, 5, 7, 8])) == [4]
        with ranks.alone():
            assert ranks.leads() and ranks.share([4, 2], [0] * 5) == [4, 2]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is -1 of WORLD_SIZE 2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "is no number"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "LOCAL_RANK is -1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "HCNR_RANKS_TIMEOUT": "0"}, "0 seconds"),
        ({"RANK": "0", "WORLD_SIZE": "2", "HCNR_RANKS_TIMEOUT": "nan"}, "nan seconds"),
    ],
)
def test_an_environment_that_no_launcher_makes_is_refused_before_anybody_is_waited_for(
    monkeypatch, places, words
):
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", **places}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words), ranks.started("cpu"):
        pass


def test_whom_it_waits_for_is_said_and_who_does_not_come(monkeypatch, capsys):
    """One process on a cluster whose jobs name more of them."""
    with socket.socket() as own:
        own.bind(("localhost", 0))
        port = own.getsockname()[1]
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                        "MASTER_PORT": str(port), "HCNR_RANKS_TIMEOUT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "_PATIENCE", 0.2)
    monkeypatch.setattr(meeting, "_speaking", None)
    late = "2 processes of this run did not meet within 1 second"
    with pytest.raises(RankError, match=late), ranks.started("cpu"):
        pass
    err = capsys.readouterr().err
    assert err.count("note: ") == 1 and f"2 processes are waited for at localhost:{port}" in err
    assert "unset WORLD_SIZE" in err


GPU = meeting.Seat("one", 0, 2, "a")


@pytest.mark.parametrize(
    ("seats", "words"),
    [
        ([GPU, GPU._replace(local=1)], "processes 0 and 1 would both take GPU 1 of one"),
        ([GPU, GPU._replace(gpu="")], "process 0 of the machine one has no GPU.*sees 2"),
        ([GPU._replace(gpu="", gpus=0)], "torch sees none"),
        ([GPU, GPU._replace(gpu=None)], "process 1 would compute on the CPU of one"),
        ([GPU._replace(gpu=None), GPU], "process 1 would compute on a GPU of one"),
    ],
)
def test_devices_that_do_not_suffice_are_refused(seats, words):
    with pytest.raises(ConfigError, match=words):
        meeting.check_seats(seats)


def test_devices_that_suffice():
    meeting.check_seats([GPU, GPU._replace(local=1, gpu="b")])
    meeting.check_seats([GPU._replace(gpu=None)] * 3)
    assert meeting.Seat.of(1, "cpu").gpu is None


def test_a_call_from_python_says_that_it_shares_nothing(places, tmp_path, monkeypatch):
    several.restored(places, tmp_path / "one", ["none"])
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "nowhere",
                        "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    several.restored(places, tmp_path / "more", ["none"])
    before, after = (read_report(tmp_path / n / "none")["warnings"] for n in ("one", "more"))
    (note,) = set(after) - set(before)
    assert "RANK 1 of WORLD_SIZE 4" in note and "measured everything itself" in note


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
        with pytest.raises(RankError, match="the first cause"), meeting._told_to_end():
            try:
                raise RankError("the first cause")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                cleaned.append(True)
        # Nor is the sentence that follows.
        assert cleaned and signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        with pytest.raises(RankError, match="the launcher was told"), meeting._told_to_end():
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
    with meeting._told_to_end():
        meeting._leave(RunGroup(0, 2, Store(), 1.0))
    assert signal.getsignal(signal.SIGTERM) is kept


def test_a_note_before_they_have_met_is_the_first_process_s(monkeypatch, capsys):
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for rank, notes in (("0", 1), ("1", 0)):
        for name, value in {"RANK": rank, **places}.items():
            monkeypatch.setenv(name, value)
        cli.run(lambda: warnings.warn("a former name", FormerName, stacklevel=1))
        assert capsys.readouterr().err.count("note: a former name") == notes
