"""Patches of checkpoints made by hand: every bit counts, whatever dtype, shape or file it is in."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from hcnr.checkpoint import Checkpoint, Patch, patch_writer, write_patch, write_weights
from hcnr.checkpoint.headers import DTYPES
from hcnr.errors import CheckpointError

from .helpers import save

SHAPES = [(), (0,), (7,), (0, 5), (5, 0), (6, 4), (4, 6), (3, 0, 4), (2, 5, 3)]


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def written(tuned: Checkpoint, place: Path, new: Mapping[str, torch.Tensor]) -> Patch:
    place.mkdir()
    return write_patch(tuned, place, new.get, name="tuned")


def applied(tuned: Checkpoint, patch: Patch, place: Path) -> Checkpoint:
    """The checkpoint that `apply_patch` would write, its checks among it."""
    patch.check_for(tuned)
    patch.check_whole()
    patch.check_bits(tuned)
    place.mkdir()
    write_weights(tuned, place, patch.replacing(tuned))
    (place / "config.json").write_text("{}")
    return Checkpoint.open(place)


def one_bit(tensor: torch.Tensor, place: int) -> torch.Tensor:
    """A copy in which the lowest bit of an element is another; all of a tensor where -1."""
    raw = tensor.reshape(-1).view(torch.uint8).clone().reshape(tensor.numel(), -1)
    raw[slice(None) if place < 0 else place, 0] ^= 1
    return raw.reshape(-1).view(tensor.dtype).reshape(tensor.shape)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_and_shape_to_the_bit(tmp_path: Path, dtype: torch.dtype, shards: int):
    generator = torch.Generator().manual_seed(0)
    before, new = {}, {}
    for count, shape in enumerate(SHAPES):
        size = torch.Size(shape).numel() * dtype.itemsize
        top = 2 if dtype == torch.bool else 256
        raw = torch.randint(0, top, (size,), dtype=torch.uint8, generator=generator)
        tensor = raw.view(dtype).reshape(shape)
        for what, place in (("kept", None), ("one", 0), ("last", tensor.numel() - 1), ("all", -1)):
            before[f"{count}.{what}"] = tensor.clone()
            if place is not None and tensor.numel():
                new[f"{count}.{what}"] = one_bit(tensor, place)
    tuned = Checkpoint.open(save(tmp_path / "tuned", before, shards))
    patch = written(tuned, tmp_path / "patch", {**before, **new})
    assert set(patch.tensors) == set(new)
    found = applied(tuned, patch, tmp_path / "out")
    for name, tensor in {**before, **new}.items():
        assert as_bytes(found.load(name)) == as_bytes(tensor), name


@pytest.mark.parametrize("name", ["x#rows", "x#columns", "x#rows.mask", "x#columns.mask"])
def test_names_that_a_patch_keeps_for_itself_are_refused(tmp_path: Path, name: str):
    before = {"x": torch.zeros(3, 4), name: torch.zeros(1, 4)}
    tuned = Checkpoint.open(save(tmp_path / "tuned", before, 1))
    with pytest.raises(CheckpointError, match=rf"a tensor '{name}', .* write the whole"):
        written(tuned, tmp_path / "patch", {"x": torch.eye(3, 4)})
    assert not list((tmp_path / "patch").iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_signs_of_zeros_and_what_is_no_number_are_bits_too(tmp_path: Path, dtype: torch.dtype):
    """Where values are compared -0 equals 0, and no NaN equals itself."""
    odd = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1.0], dtype=dtype)
    before = {"zero": odd.repeat(5, 1), "nan": odd.repeat(5, 1), "kept": odd.repeat(5, 1)}
    new = {name: tensor.clone() for name, tensor in before.items()}
    new["zero"][3, 0] = -0.0
    new["nan"][2] = one_bit(new["nan"][2], -1)  # other payloads
    tuned = Checkpoint.open(save(tmp_path / "tuned", before))
    patch = written(tuned, tmp_path / "patch", new)
    assert {name: one.form for name, one in patch.tensors.items()} == {
        "zero": "columns", "nan": "rows",
    }  # fmt: skip
    found = applied(tuned, patch, tmp_path / "out")
    for name, tensor in new.items():
        assert as_bytes(found.load(name)) == as_bytes(tensor)


def test_every_tensor_lies_where_its_dtype_may_be_read_without_a_copy(tmp_path: Path):
    before = {
        "bytes": torch.zeros(3, dtype=torch.int8), "half": torch.zeros(5, 3).half(),
        "wide": torch.zeros(5, 3), "wider": torch.zeros(3).double(), "few": torch.zeros(9, 4),
    }  # fmt: skip
    new = {name: tensor + 1 for name, tensor in before.items()}
    new["few"][1:] = 0
    patch = written(Checkpoint.open(save(tmp_path / "tuned", before)), tmp_path / "patch", new)
    assert len(patch.tensors) == 5 and patch.tensors["few"].form == "rows"
    for one in patch.tensors.values():
        assert one.values.begin % one.values.dtype.itemsize == 0, one


def test_the_files_and_their_order_do_not_count(tmp_path: Path):
    """A checkpoint that was saved again, in other shards, is the same one."""
    generator = torch.Generator().manual_seed(0)
    before = {name: torch.randn(9, 4, generator=generator) for name in "abcdefg"}
    tuned = Checkpoint.open(save(tmp_path / "tuned", before))
    patch = written(tuned, tmp_path / "patch", {"b": before["b"] * 2, "f": before["f"] * 3})
    backwards = dict(reversed(before.items()))
    for shards in (1, 2, 5):
        other = Checkpoint.open(save(tmp_path / f"{shards}", backwards, shards))
        found = applied(other, patch, tmp_path / f"out{shards}")
        assert torch.equal(found.load("b"), before["b"] * 2)
        assert torch.equal(found.load("c"), before["c"])
        assert [shard.file.name for shard in found.shards] == [
            shard.file.name for shard in other.shards
        ]


def test_the_same_bytes_under_other_names_are_another_checkpoint(tmp_path: Path):
    """Two tensors that differ where no fingerprint looks, in each other's place."""
    one = torch.arange(400.0).reshape(100, 4)
    two = one.clone()
    two[5, 1] = -1
    tuned = Checkpoint.open(save(tmp_path / "tuned", {"a": one, "b": two}))
    other = Checkpoint.open(save(tmp_path / "other", {"a": two, "b": one}))
    assert tuned.fingerprint("ab") == other.fingerprint("ab")
    patch = written(tuned, tmp_path / "patch", {"a": one * 2})
    with pytest.raises(CheckpointError, match="some of its weights differ"):
        applied(other, patch, tmp_path / "out")


def test_a_patch_on_what_a_patch_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patch_writer, "WRITE_BYTES", 6)  # of a row several writes
    before = {"a": torch.arange(40.0).reshape(10, 4), "b": torch.zeros(3)}
    first, second = before["a"].clone(), before["a"].clone()
    first[2], second[2:4] = 7, 8
    tuned = Checkpoint.open(save(tmp_path / "tuned", before))
    middle = applied(tuned, written(tuned, tmp_path / "p", {"a": first}), tmp_path / "middle")
    patch = written(middle, tmp_path / "q", {"a": second})
    last = applied(middle, patch, tmp_path / "last")
    assert torch.equal(last.load("a"), second)
    with pytest.raises(CheckpointError, match="made for another TUNED"):
        applied(tuned, patch, tmp_path / "wrong")
