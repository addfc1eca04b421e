"""Stored values where they lie."""

import mmap
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hcnr.checkpoint import (
    Checkpoint,
    PatchedCheckpoint,
    check_finite,
    fingerprint_tensors,
    finite,
    reader,
    views,
    write_patch,
)
from hcnr.errors import CheckpointError

from .helpers import raw_file, save, tree

LARGE = (300, 257)


def large(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*LARGE, generator=generator).to(dtype) for name in ("a", "b")} | {
        "small": torch.arange(6.0),
        "none": torch.empty(0, 4),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_a_view_equals_what_is_read(tmp_path: Path, dtype: torch.dtype):
    tensors = large(dtype)
    checkpoint = Checkpoint.open(save(tmp_path, tensors))
    before = tree(tmp_path)
    for name, tensor in tensors.items():
        found = checkpoint.view(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))
        found.fill_(7)
    assert tree(tmp_path) == before, "what is written to a view is not the file's"


def test_a_patched_checkpoint_is_patched_in_every_view(tmp_path: Path):
    """Whatever is asked of it: a view of the file below would be of unpatched values."""
    tensors = large()
    new = {"a": tensors["a"].clone(), "small": tensors["small"] * 2}
    new["a"][3] = 0
    tuned = Checkpoint.open(save(tmp_path / "tuned", tensors))
    (tmp_path / "patch").mkdir()
    patch = write_patch(tuned, tmp_path / "patch", new.get, name="tuned")
    patched = PatchedCheckpoint.of(tuned, patch)
    for name, tensor in {**tensors, **new}.items():
        for found in (patched.view(name), patched.load(name)):
            assert torch.equal(found, tensor)
        assert torch.equal(patched.load_rows(name, [0, 3] if len(tensor) else []),
                           tensor[[0, 3]] if len(tensor) else tensor)  # fmt: skip
    expected = fingerprint_tensors({"a": new["a"], "b": tensors["b"]})
    assert patched.fingerprint(["a", "b"]) == expected


def mapped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Offsets and lengths of what is mapped from now on."""
    real, seen = mmap.mmap, []

    def fake(descriptor: int, length: int, **options: int) -> mmap.mmap:
        seen.append((options["offset"], length))
        return real(descriptor, length, **options)

    monkeypatch.setattr(views.mmap, "mmap", fake)
    return seen


def test_only_large_and_aligned_values_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint = Checkpoint.open(save(tmp_path / "a", large()))
    seen = mapped(monkeypatch)
    checkpoint.view("small")
    assert not seen
    checkpoint.view("b")
    ((offset, length),) = seen
    info = checkpoint.info("b")
    assert offset <= info.begin and offset + length == info.end
    assert length < info.nbytes + mmap.ALLOCATIONGRANULARITY
    # An odd offset, as a header of odd length makes it.
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text("{}")
    data = torch.ones(LARGE, dtype=torch.bfloat16)
    entry = {"dtype": "BF16", "shape": list(LARGE), "data_offsets": [0, 2 * data.numel()]}
    for name in ("a", "ab"):
        content = raw_file({name: entry}, data.view(torch.uint8).numpy().tobytes())
        (odd / "model.safetensors").write_bytes(content)
        before = len(seen)
        assert torch.equal(Checkpoint.open(odd).view(name), data)
        assert len(seen) - before == 1 - Checkpoint.open(odd).info(name).begin % 2


def test_what_cannot_be_mapped_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tensors = large()
    checkpoint = Checkpoint.open(save(tmp_path, tensors))

    def refuse(*_: object, **__: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(views.mmap, "mmap", refuse)
    assert torch.equal(checkpoint.view("a"), tensors["a"])
    check_finite(checkpoint)


def test_a_file_that_was_cut_is_a_sentence(tmp_path: Path):
    checkpoint = Checkpoint.open(save(tmp_path, large()))
    os.truncate(tmp_path / "model.safetensors", checkpoint.info("b").end - 1)
    last = max(checkpoint.tensors, key=lambda name: checkpoint.info(name).end)
    name = last if checkpoint.info(last).nbytes else "b"
    with pytest.raises(CheckpointError, match="leave the checkpoint alone"):
        checkpoint.view(name)


def test_a_kernel_that_does_not_map_ahead_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tensors = large()
    checkpoint = Checkpoint.open(save(tmp_path, tensors))
    monkeypatch.setattr(views, "_MADV_POPULATE_READ", 9999)
    monkeypatch.setattr(reader, "read_into", None)  # it is mapped all the same
    assert torch.equal(checkpoint.view("a"), tensors["a"])


@pytest.mark.skipif(sys.platform != "linux", reason="pages are mapped ahead on Linux only")
def test_a_file_that_is_cut_while_its_pages_are_mapped_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoint = Checkpoint.open(save(tmp_path, large()))
    real = mmap.mmap

    def cut_afterwards(*given: Any, **options: Any) -> mmap.mmap:
        area = real(*given, **options)
        os.truncate(tmp_path / "model.safetensors", 100)
        return area

    monkeypatch.setattr(views.mmap, "mmap", cut_afterwards)
    with pytest.raises(CheckpointError, match="leave the checkpoint alone"):
        checkpoint.view("a")


@pytest.mark.parametrize("window", [1 << 17, 1 << 18])
def test_finite_values_are_looked_at_window_by_window_each_byte_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
):
    tensors = large()
    tensors["b"][-1, -1] = torch.nan
    tensors["b"][0, 0] = torch.inf
    checkpoint = Checkpoint.open(save(tmp_path, tensors))
    monkeypatch.setattr(views, "WINDOW_BYTES", window)
    monkeypatch.setattr(finite, "CHUNK_BYTES", window // 4)
    seen = mapped(monkeypatch)
    steps: list[int] = []
    read: list[int] = []
    real = reader.read_into
    monkeypatch.setattr(
        finite, "read_into",
        lambda file, pieces: (read.extend(len(t) for _, t in pieces), real(file, pieces)),
    )  # fmt: skip
    check_finite(checkpoint, ["a", "small", "none"], steps.append)
    nbytes = sum(checkpoint.info(name).nbytes for name in ("a", "small"))
    assert sum(steps) == nbytes
    # Beside the bytes of the page in which each window begins.
    whole = sum(read) + sum(length for _, length in seen)
    assert nbytes <= whole < nbytes + len(seen) * mmap.ALLOCATIONGRANULARITY
    with pytest.raises(CheckpointError, match=r"'b' .* holds 1 NaN and 1 infinite of 77100"):
        check_finite(checkpoint, ["b"])
