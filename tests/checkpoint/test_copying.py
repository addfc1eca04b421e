"""Rows of two tensors, written as one."""

import os
import sys
from pathlib import Path

import pytest
import torch

from hcnr.checkpoint import Checkpoint, Spliced, copying, write_weights
from hcnr.errors import CheckpointError

from .helpers import save

MASKS = {
    "none": [False] * 7,
    "all": [True] * 7,
    "first": [True] + [False] * 6,
    "last": [False] * 6 + [True],
    "runs": [True, True, False, True, False, False, True],
}


def spliced(mask: list[bool], dtype: torch.dtype = torch.bfloat16) -> tuple[Spliced, torch.Tensor]:
    own, other = (torch.randn(7, 5).to(dtype) for _ in range(2))
    chosen = torch.tensor(mask)
    return Spliced(own, other, chosen), torch.where(chosen[:, None], other, own)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_pieces_are_the_bytes_of_the_whole(mask: list[bool], dtype: torch.dtype):
    found, _ = spliced(mask, torch.float32)
    found = Spliced(found.own.to(dtype), found.other.to(dtype), found.mask)
    own, other = (one.view(torch.uint8).reshape(7, -1) for one in (found.own, found.other))
    whole = torch.where(found.mask[:, None], other, own)
    assert b"".join(found.pieces()) == whole.numpy().tobytes()
    assert (found.dtype, tuple(found.shape)) == (dtype, (7, 5))


def test_no_rows_have_no_bytes():
    empty = torch.empty(0, 5)
    assert b"".join(Spliced(empty, empty, torch.empty(0, dtype=torch.bool)).pieces()) == b""


@pytest.mark.parametrize("kind", ["normal", "short", "absent"])
@pytest.mark.parametrize("chunk", [3, 10, 64, 1 << 20])
@pytest.mark.parametrize("most", [1, 2, 1024])
def test_written_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, chunk: int, most: int
):
    for name in ("CHUNK_BYTES", "WRITE_BYTES"):
        monkeypatch.setattr(copying, name, chunk)
    monkeypatch.setattr(copying, "_MOST_PIECES", most)
    real = os.pwritev
    if kind == "short":
        # A call may write less than it was given, and end within a piece.
        monkeypatch.setattr(
            os, "pwritev", lambda fd, pieces, at: real(fd, [b"".join(pieces)[:4]], at)
        )
    elif kind == "absent":
        monkeypatch.delattr(os, "pwritev")
    made = {name: spliced(mask) for name, mask in MASKS.items()}
    tuned = Checkpoint.open(
        save(tmp_path / "a", {**{n: one.own for n, (one, _) in made.items()}, "z": torch.ones(3)})
    )
    (tmp_path / "out").mkdir()
    steps: list[int] = []
    write_weights(
        tuned, tmp_path / "out", {n: lambda one=one: one for n, (one, _) in made.items()},
        steps.append,
    )  # fmt: skip
    assert sum(steps) == tuned.nbytes and max(steps) <= chunk
    (tmp_path / "out" / "config.json").write_text("{}")
    written = Checkpoint.open(tmp_path / "out")
    for name, (_, whole) in made.items():
        assert torch.equal(written.load(name), whole), name
    assert torch.equal(written.load("z"), torch.ones(3))


def test_another_shape_is_refused(tmp_path: Path):
    tuned = Checkpoint.open(save(tmp_path / "a", {"a": torch.ones(7, 4)}))
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"bfloat16 \[7, 5\], and torch\.float32 \[7, 4\]"):
        write_weights(tuned, tmp_path / "out", {"a": lambda: spliced(MASKS["runs"])[0]})


@pytest.mark.parametrize("mask", [[True] * 7, [True, False] * 3 + [True]], ids=["whole", "runs"])
@pytest.mark.skipif(sys.platform != "linux", reason="what a system says of such memory is its own")
def test_rows_of_a_file_that_is_cut_while_they_are_mapped_are_the_checkpoints_fault(
    tmp_path: Path, mask: list[bool]
):
    """The kernel meets them, not the process, which such a file would end."""
    values = torch.randn(7, 1 << 14)
    tuned = Checkpoint.open(save(tmp_path / "tuned", {"a": values}))
    base = Checkpoint.open(save(tmp_path / "base", {"a": values}))
    (tmp_path / "out").mkdir()

    def cut() -> Spliced:
        found = Spliced(tuned.view("a"), base.view("a"), torch.tensor(mask))
        os.truncate(base.info("a").file, 0)
        return found

    with pytest.raises(CheckpointError, match=r"was cut while 'model\.safetensors' was made of it"):
        write_weights(tuned, tmp_path / "out", {"a": cut})
