"""How often a restoration reads the bytes of its two checkpoints."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

import hcnr
from hcnr.checkpoint import Checkpoint, finite, reader, views
from hcnr.errors import CheckpointError
from hcnr.models.directory import DirectorySource
from hcnr.pipeline.run import PairRun
from hcnr.pipeline.stages import Work
from pairs import config, hashes


class Reads:
    """Counts what is mapped, by file and offset of the first byte, and the bytes that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.mapped: Counter[tuple[Path, int, int]] = Counter()
        self.read = 0
        map_values, read_into = views.mapped_values, reader.read_into

        def mapped(info, begin, end):
            found = map_values(info, begin, end)
            self.mapped[info.file, begin, end] += found is not None
            return found

        def read(file, pieces):
            pieces = list(pieces)
            self.read += sum(tensor.numel() for _, tensor in pieces)
            return read_into(file, pieces)

        monkeypatch.setattr(views, "_LEAST_BYTES", 1)
        for module in (reader, finite):
            monkeypatch.setattr(module, "mapped_values", mapped)
            monkeypatch.setattr(module, "read_into", read)

    def of(self, checkpoint: Checkpoint) -> dict[str, int]:
        """How often each tensor was mapped whole."""
        found = {
            name: self.mapped[info.file, info.begin, info.end]
            for name, info in checkpoint.tensors.items()
        }
        assert sum(found.values()) == sum(
            count for (file, _, _), count in self.mapped.items() if file.parent == checkpoint.path
        )
        return found


@pytest.mark.parametrize("axis", ["output", "input"])
def test_each_weight_is_read_once_and_the_restored_ones_twice(
    pair, statistics, tmp_path, monkeypatch, axis
):
    """Once to look whether it is finite and how far it moved, then to be written."""
    settings = config(compensation="none", axis=axis)
    chosen = hcnr.select(statistics[axis], pair["base"], pair["tuned"], settings)
    selected = {f"{name}.weight" for name in chosen.selected}
    assert 0 < len(selected) < len(chosen.masks)
    fingerprints = Reads(monkeypatch)
    assert not DirectorySource(pair["base"]).has_fingerprint("another")
    DirectorySource(pair["tuned"]).fingerprint()
    assert not fingerprints.mapped
    rows = fingerprints.read
    reads = Reads(monkeypatch)
    hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "out", config=settings,
        statistics=statistics[axis],
    )  # fmt: skip
    first = f"{next(iter(chosen.masks))}.weight"
    for role in ("base", "tuned"):
        checkpoint = Checkpoint.open(pair[role])
        found = reads.of(checkpoint)
        # The first target tells at the start that the two differ.
        assert found == {
            name: 1 + (name in selected) + (name == first) for name in checkpoint.tensors
        }
    # Nothing is read beside but rows for the fingerprints.
    assert reads.read == rows


@pytest.fixture
def touched_in_part(pair, tmp_path) -> Path:
    """Tuned with one target as base has it."""
    directory = tmp_path / "part"
    directory.mkdir()
    for file in pair["tuned"].iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    name = "model.layers.1.mlp.up_proj.weight"
    file = Checkpoint.open(directory).info(name).file
    tensors = load_file(file)
    tensors[name] = Checkpoint.open(pair["base"]).load(name)
    save_file(tensors, file, {"format": "pt"})
    return directory


@pytest.mark.parametrize("axis", ["output", "input"])
def test_where_every_matrix_is_repaired_each_is_looked_at_as_it_is_written(
    pair, touched_in_part, statistics, tmp_path, monkeypatch, axis
):
    """Once, and what comes out is what a selection beforehand gives: bytes, report and order."""
    settings = config(compensation="none", axis=axis, cross_weight_ratio=1.0)
    prints = {
        "base": DirectorySource(pair["base"]).fingerprint(),
        "tuned": DirectorySource(touched_in_part).fingerprint(),
    }
    scores = dataclasses.replace(statistics[axis], fingerprints=prints)

    def restored(out: Path) -> dict[str, Any]:
        hcnr.restore(pair["base"], touched_in_part, out=out, config=settings, statistics=scores)
        report = json.loads((out / "hcnr_report.json").read_text())
        for part in (report, report["summary"]):
            del part["seconds"]
        del report["date"]
        return report

    reads = Reads(monkeypatch)
    late = restored(tmp_path / "late")
    first = next(iter(late["perturbation"]))
    for directory in (pair["base"], touched_in_part):
        checkpoint = Checkpoint.open(directory)
        # The first target tells at the start that the two differ.
        assert reads.of(checkpoint) == {
            name: 1 + (name == f"{first}.weight") for name in checkpoint.tensors
        }
    monkeypatch.setattr(PairRun, "_selects_late", False)
    early = restored(tmp_path / "early")
    assert late == early and list(late["perturbation"]) == list(early["perturbation"])
    assert late["summary"]["untouched_matrices"] == ["model.layers.1.mlp.up_proj"]
    assert hashes(tmp_path / "late") == hashes(tmp_path / "early")


@pytest.mark.parametrize("ratio", [0.4, 1.0])
@pytest.mark.parametrize("role", ["base", "tuned"])
@pytest.mark.parametrize("where", ["target", "other"])
def test_weights_that_the_selection_checks_are_refused_in_the_same_words(
    pair, statistics, tmp_path, role, where, ratio
):
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        for file in pair[name].iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    checkpoint = Checkpoint.open(tmp_path / role)
    # Not in the first matrix nor in a row that fingerprints cover.
    named = next(
        name for name, info in checkpoint.tensors.items()
        if len(info.shape) == 2 and info.shape[0] > 8 and "layers.0.self_attn.q" not in name
        and ("layers" in name) == (where == "target")
    )  # fmt: skip
    file = checkpoint.info(named).file
    tensors = load_file(file)
    tensors[named][1, 2] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{named!r} of .* holds 1 infinite of \d+ values"):
        hcnr.restore(
            tmp_path / "base",
            tmp_path / "tuned",
            out=tmp_path / "out",
            config=config(compensation="none", cross_weight_ratio=ratio),
            statistics=statistics["output"],
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_every_kind_of_work_has_what_carries_it_out() -> None:
    assert list(object.__new__(PairRun)._methods) == list(get_args(Work))
