"""A measuring process whose GPU is lost, with torch's calls pretended."""

import pytest
import torch

from bench import worker
from bench.journal import Journal, fold, measured


@pytest.fixture
def recorder(tmp_path):
    return worker.Recorder("inverse", Journal([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]))


def lose(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, fail)


def fail() -> list:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_an_error_that_stays_is_recorded_and_ends_the_process(recorder, monkeypatch, tmp_path):
    lose(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        recorder.attempt("case 1", fail)
    assert ended.value.code == worker.STICKY
    for name in ("a", "b"):
        (record,) = fold(Journal([tmp_path / f"{name}.jsonl"]).entries())["records"]
        assert "illegal memory access" in record["failed"]


def test_an_error_that_does_not_stay_ends_nothing(recorder, tmp_path):
    recorder.attempt("case 1", fail)
    recorder.attempt("case 2", lambda: [{"title": "two"}])
    result = fold(recorder._journal.entries())
    assert [record["title"] for record in result["records"]] == ["case 1", "two"]
    assert measured(result, "inverse") == ["case 2"]


def test_an_empty_cache_that_fails_does_not_end_the_process(recorder, monkeypatch):
    lose(monkeypatch)
    assert recorder.attempt("case 1", lambda: [{"title": "one"}]) == [{"title": "one"}]


def test_a_figure_of_another_type_is_kept(recorder, capsys):
    record = {"title": "odd", "ms": torch.tensor(2.5), "place": object}
    assert recorder.attempt("case 1", lambda: [record]) == [record]
    (found,) = fold(recorder._journal.entries())["records"]
    assert found["ms"] == 2.5
    assert "class 'object'" in found["place"]
    assert "odd" in capsys.readouterr().out


def test_what_was_measured_before_is_left_out(tmp_path):
    recorder = worker.Recorder("gram", Journal([tmp_path / "a.jsonl"]), skip=["case 1"])
    assert recorder.attempt("case 1", fail) == []
    assert recorder.attempt("case 1", lambda: [{"title": "one"}], always=True)
    assert recorder.failures == 0
