"""Whole jobs at tiny shapes: their files, and their stages when a job is cut off."""

import signal
import subprocess
import sys

import pytest
import torch

from bench import job, measure, pairs
from bench.journal import UNFINISHED, Journal, fold, measured
from bench.worker import Recorder, Settings

CPU = torch.device("cpu")
SETTINGS = Settings(CPU, small=True, quick=True)


@pytest.fixture
def recorder(tmp_path):
    return Recorder("8b", Journal([tmp_path / "a.jsonl"]))


def test_a_pair_is_as_large_as_it_was_said_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(pairs, "PLACES", (str(tmp_path),))
    with pairs.written(CPU, pairs.SMALL, count=3, length=8, response=2) as files:
        stored = sum(path.stat().st_size for path in files.base.glob("*.safetensors"))
        assert 0.9 * stored <= files.weights <= stored
        assert len(files.honesty) == len(files.task) == 3
        assert files.honesty != files.task
        assert len(files.honesty[0]["response"].split()) == 2
    assert list(tmp_path.iterdir()) == []


def test_8b_and_70b_are_as_large_as_their_names():
    assert pairs.weight_bytes(pairs.LLAMA_8B) / 2 == pytest.approx(8.03e9, rel=0.01)
    assert pairs.weight_bytes(pairs.LLAMA_70B) / 2 == pytest.approx(70.6e9, rel=0.01)


def test_files_without_room_are_refused_before_they_are_written(monkeypatch, tmp_path):
    monkeypatch.setattr(pairs, "PLACES", (str(tmp_path),))
    with pytest.raises(RuntimeError, match=rf"need 1000000 GB; {tmp_path} has \d+ GB"):
        pairs.room_for(10**15)


LEAVES = """
import os, pathlib, signal, sys
from hcnr.scratch import Scratch
(Scratch(pathlib.Path(sys.argv[1])).path / "half").write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_job_left_takes_no_room_from_the_next(monkeypatch, tmp_path):
    """48 GB in memory, where the next command would not find them again."""
    monkeypatch.setattr(pairs, "PLACES", (str(tmp_path),))
    with pairs.written(CPU, pairs.SMALL, count=3, length=8, response=2) as files:
        left = subprocess.run([sys.executable, "-c", LEAVES, str(tmp_path)], check=False)
        assert left.returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob("*/half"))) == 1
        assert pairs.room_for(1) == tmp_path
        assert not list(tmp_path.glob("*/half"))
        # What lives stays.
        assert files.base.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_room_is_a_row(monkeypatch, recorder, tmp_path):
    monkeypatch.setattr(pairs, "PLACES", ("/nowhere",))
    job.at_8b((("input", "sum"),), SETTINGS._replace(small=False), recorder)
    (record,) = fold(recorder._journal.entries())["records"]
    assert "need 50 GB" in record["failed"]


def test_the_stages_of_a_job_that_is_cut_off_are_kept(recorder):
    def cut_off():
        clock = job.Clock("a job", recorder, CPU)
        clock.begin("score")
        clock.begin("write")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorder.attempt("a job", cut_off)
    result = fold(recorder._journal.entries())
    found = {record["title"]: record for record in result["records"]}
    assert "failed" not in found["a job: score"]
    assert found["a job"]["failed"] == UNFINISHED
    # The next command does the job again.
    assert "a job" not in measured(result, "8b")


def test_a_job_from_files_to_files(recorder):
    with job.pair(SETTINGS, pairs.LLAMA_8B) as files:
        (row, *_) = recorder.attempt(
            "a job", lambda: job.whole("input", "sum", files, SETTINGS, recorder)
        )
    assert recorder.failures == 0
    assert sum(row["stages"].values()) == pytest.approx(row["goal"]["value"])
    assert {"score honesty", "score task", "select"} <= set(row["stages"])


@pytest.mark.parametrize("broken", [False, True])
def test_what_a_job_compiles_is_no_part_of_its_time(broken, recorder, monkeypatch):
    order = []

    def restore(*, out, config, **_):
        order.append(("one block", config.axis, config.compensation))
        if broken:
            raise RuntimeError("no room")
        out.mkdir()

    def whole(axis, kind, *_):
        order.append(("whole", axis, kind))
        return []

    monkeypatch.setattr(job.hcnr, "restore", restore)
    monkeypatch.setattr(job, "whole", whole)
    monkeypatch.setattr(job, "copied", lambda _: [])
    job.at_8b((("input", "sum"), ("output", "sum")), SETTINGS, recorder)
    # A first job that fails costs its row alone.
    first = [("one block", axis, "sum") for axis in (["input"] if broken else ["input", "output"])]
    assert order == [*first, ("whole", "input", "sum"), ("whole", "output", "sum")]
    assert recorder.failures == broken


def test_lengths_are_those_of_a_micro_batch():
    for kind in ("short", "equal"):
        found = measure.lengths(kind, small=False)
        assert sum(found) == 8192
    mixed = measure.lengths("mixed", small=False)
    assert (min(mixed), max(mixed), len(mixed)) == (16, 1024, 32)
