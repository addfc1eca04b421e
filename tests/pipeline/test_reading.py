"""How often a restoration reads the bytes of its two checkpoints."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hcnr
from hcnr.checkpoint import Checkpoint, finite, reader, views
from hcnr.errors import CheckpointError
from hcnr.models.directory import DirectorySource
from pairs import config


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


@pytest.mark.parametrize("role", ["base", "tuned"])
@pytest.mark.parametrize("where", ["target", "other"])
def test_weights_that_the_selection_checks_are_refused_in_the_same_words(
    pair, statistics, tmp_path, role, where
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
            tmp_path / "base", tmp_path / "tuned", out=tmp_path / "out",
            config=config(compensation="none"), statistics=statistics["output"],
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
