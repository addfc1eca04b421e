"""A disk that is full, whoever writes when it is: one sentence, nothing half-written."""

from pathlib import Path
from typing import Any

import pytest

import hcnr
from full_disk import limited
from hcnr.checkpoint import kept_work
from hcnr.curvature.passes import Passes
from hcnr.errors import OutputError
from pairs import config


def refused(folder: Path, nbytes: int, words: str, **arguments: Any) -> None:
    with pytest.raises(OutputError, match=f"{words}.*File too large") as error, limited(nbytes):
        hcnr.restore(out=folder / "out", config=config(), **arguments)
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("nbytes", [100, 3000], ids=["settings", "weights"])
def test_an_adapter(pair, tmp_path, monkeypatch, nbytes):
    pytest.importorskip("peft", reason="the package peft is not installed")
    monkeypatch.setattr(kept_work, "_RATE", 1e18)
    refused(tmp_path, nbytes, "the output", **pair, out_format="adapter")
    # What is kept of such a run fits as little where all files are that small.
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"out.unfinished"} if nbytes > 100 else set())


@pytest.mark.parametrize("nbytes", [100, 3000], ids=["settings", "weights"])
def test_a_model_in_memory(pair, loaded, tmp_path, nbytes):
    models = {**pair, **loaded, "tokenizer": pair["tuned"]}
    refused(tmp_path, nbytes, "cannot be written to" if nbytes == 100 else "the output", **models)
    assert not list(tmp_path.iterdir())


def test_statistics(pair, statistics, tmp_path):
    with pytest.raises(OutputError, match=r"s.safetensors' .*File too large"), limited(3000):
        statistics["output"].save(tmp_path / "s.safetensors")
    assert not list(tmp_path.iterdir())


def test_statistics_that_could_not_be_saved_are_not_measured_again(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_work, "_RATE", 1e18)
    passes, real = [], Passes.run
    monkeypatch.setattr(
        Passes, "run", lambda self, *a, **k: passes.append(1) or real(self, *a, **k)
    )
    file, settings = tmp_path / "s.safetensors", config(compensation="joint")
    measured = hcnr.measure(**pair, config=settings, keep_for=file)
    assert passes
    with pytest.raises(OutputError, match="File too large"), limited(3000):
        measured.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors.unfinished"]
    passes.clear()
    again = hcnr.measure(**pair, config=settings, keep_for=file)
    assert not passes
    again.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_a_patch_that_is_put_on(pair, tmp_path):
    patch = hcnr.restore(**pair, out=tmp_path / "p", config=config(), out_format="patch")
    with pytest.raises(OutputError, match=r"the output .*File too large"), limited(100):
        hcnr.apply_patch(pair["tuned"], patch, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
