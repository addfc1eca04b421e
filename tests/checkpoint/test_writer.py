import ctypes
import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from full_disk import limited
from hcnr.checkpoint import (
    Checkpoint,
    copy_companions,
    copying,
    output_directory,
    write_patch,
    write_weights,
)
from hcnr.errors import CheckpointError, OutputError

from .helpers import save, targets, tree, weights

REPLACED = ["model.layers.0.q_proj.weight", "model.layers.2.down_proj.weight"]


def out_of(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def slow_kernel_copy(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Makes the kernel's copy short, refused at once, refused later, or absent."""
    copy = getattr(os, "copy_file_range", None)
    calls = []

    def fake(source: int, target: int, count: int, *offsets: int) -> int:
        calls.append(count)
        assert copy is not None
        if kind == "short":
            return copy(source, target, min(count, 7), *offsets)
        if kind == "late" and len(calls) < 3:
            return copy(source, target, min(count, 7), *offsets)
        if kind == "zero":
            return 0
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if kind == "absent":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif kind != "normal":
        monkeypatch.setattr(os, "copy_file_range", fake, raising=False)


KINDS = ["normal", "short", "refused", "late", "zero", "absent"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
def test_untouched_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, kind: str
):
    tuned = Checkpoint.open(save(tmp_path / "a", shards=shards))
    before = tree(tmp_path / "a")
    slow_kernel_copy(monkeypatch, kind)
    out = out_of(tmp_path)
    total = write_weights(tuned, out, lambda name: None)
    expected = {name: content for name, content in before.items() if name != "config.json"}
    assert tree(out) == expected
    assert total == sum(map(len, expected.values()))
    assert tree(tmp_path / "a") == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "names", [REPLACED, targets(), list(weights())], ids=["two", "targets", "all"]
)
def test_replaced_tensors_are_the_only_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, names: list[str], kind: str
):
    tuned = Checkpoint.open(save(tmp_path / "a", shards=shards))
    new = weights(7)
    expected = tree(tmp_path / "a")
    del expected["config.json"]
    for name in names:
        info = tuned.tensors[name]
        content = bytearray(expected[info.file.name])
        content[info.begin : info.end] = new[name].view(torch.uint8).numpy().tobytes()
        expected[info.file.name] = bytes(content)
    slow_kernel_copy(monkeypatch, kind)
    out = out_of(tmp_path)
    write_weights(tuned, out, lambda name: new[name] if name in names else None)
    assert tree(out) == expected
    (tmp_path / "out" / "config.json").write_text("{}")
    written = Checkpoint.open(out)
    for name, tensor in {**weights(), **{name: new[name] for name in names}}.items():
        assert torch.equal(written.load(name), tensor)


def test_mapping_strides_parameters_and_odd_tensors(tmp_path: Path):
    tensors = {
        **weights(),
        "scalar": torch.tensor(1.5),
        "vector": torch.zeros(3),
        "empty": torch.empty(0, 3),
    }
    tuned = Checkpoint.open(save(tmp_path / "a", tensors, shards=2))
    new = {
        "scalar": torch.tensor(2.5),
        "vector": torch.arange(5.0)[::2],
        "empty": torch.empty(0, 3),
        REPLACED[0]: torch.nn.Parameter(weights(7)[REPLACED[0]].t().contiguous().t()),
    }
    out = out_of(tmp_path)
    write_weights(tuned, out, {name: lambda tensor=tensor: tensor for name, tensor in new.items()})
    (out / "config.json").write_text("{}")
    written = Checkpoint.open(out)
    for name, tensor in {**tensors, **new}.items():
        assert torch.equal(written.load(name), tensor)


def test_asked_in_file_order_one_at_a_time(tmp_path: Path):
    tuned = Checkpoint.open(save(tmp_path / "a", shards=3))
    out = out_of(tmp_path)
    asked: list[str] = []

    def ask(name: str) -> torch.Tensor:
        # What was asked for before is written by now, up to this tensor's file.
        assert len(list(out.iterdir())) == len({tuned.tensors[n].file for n in [*asked, name]})
        asked.append(name)
        return tuned.load(name)

    write_weights(tuned, out, ask)
    assert asked == list(tuned.tensors)


def test_progress_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("CHUNK_BYTES", "WRITE_BYTES"):
        monkeypatch.setattr(copying, name, 10)
    tuned = Checkpoint.open(save(tmp_path / "a", shards=3))
    steps: list[int] = []
    new = weights(7)
    write_weights(tuned, out_of(tmp_path), lambda name: new.get(name), steps.append)
    assert sum(steps) == tuned.nbytes
    assert 0 < min(steps) <= max(steps) <= 10


def test_every_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    out = out_of(tmp_path)
    write_weights(Checkpoint.open(save(tmp_path / "a", shards=3)), out, {})
    assert set(synced) == {path.stat().st_ino for path in [out, *out.iterdir()]}


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(6, 4), r"torch\.float32 \[6, 4\]"),
        (torch.zeros(4, 6, dtype=torch.bfloat16), r"torch\.bfloat16 \[4, 6\]"),
        (torch.zeros(24, dtype=torch.bfloat16), r"torch\.bfloat16 \[24\]"),
    ],
)
def test_replacement_that_does_not_fit(tmp_path: Path, tensor: torch.Tensor, found: str):
    tuned = Checkpoint.open(save(tmp_path / "a"))
    with pytest.raises(
        CheckpointError, match=rf"'{REPLACED[0]}' is {found}, and torch\.bfloat16 \[6, 4\]"
    ):
        write_weights(tuned, out_of(tmp_path), {REPLACED[0]: lambda: tensor})


def test_replacement_of_an_unknown_tensor_is_refused_before_anything_is_written(tmp_path: Path):
    tuned = Checkpoint.open(save(tmp_path / "a"))
    out = out_of(tmp_path)
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        write_weights(tuned, out, {"x": lambda: torch.zeros(1)})
    assert tree(out) == {}


def test_checkpoint_that_changed_since_it_was_opened(tmp_path: Path):
    tuned = Checkpoint.open(save(tmp_path / "a"))
    file = tmp_path / "a" / "model.safetensors"
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        write_weights(tuned, out_of(tmp_path), {})
    file.unlink()
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        write_weights(tuned, tmp_path / "out", {})


@pytest.mark.parametrize("write", [write_weights, partial(write_patch, name="tuned")])
@pytest.mark.parametrize("how", ["replaced", "in place"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_checkpoint_that_is_rewritten_while_it_is_copied(tmp_path: Path, write: Any, how, which):
    """By the last tensor all headers were read, and the first file may have been copied."""
    for file in save(tmp_path / "a", shards=3).glob("*.safetensors"):
        os.utime(file, (1, 1))  # clocks of file systems tick slowly
    tuned = Checkpoint.open(tmp_path / "a")
    file, last = tuned.shards[which].file, list(tuned.tensors)[-1]

    def rewriting(name: str) -> None:
        if name == last:
            other = file.with_suffix(".new") if how == "replaced" else file
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            other.write_bytes(content)
            other.replace(file)

    with pytest.raises(CheckpointError, match=f"'{file}' changed since it was opened"):
        write(tuned, out_of(tmp_path), rewriting)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"cannot read '{file}' any more"):
        tuned.check_unchanged()


@pytest.mark.parametrize("kind", ["normal", "zero"])
def test_checkpoint_that_shrinks_while_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    tuned = Checkpoint.open(save(tmp_path / "a"))
    slow_kernel_copy(monkeypatch, kind)

    def shrink(name: str) -> None:
        os.truncate(tmp_path / "a" / "model.safetensors", 100)

    with pytest.raises(CheckpointError, match=r"ended at byte 100 of \d+ while it was copied"):
        write_weights(tuned, out_of(tmp_path), shrink)


@pytest.mark.parametrize("call", ["pwrite", "copy_file_range", "fsync"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    new = weights(7)
    tuned = Checkpoint.open(save(tmp_path / "a"))
    monkeypatch.setattr(os, call, full)
    with (
        pytest.raises(OutputError, match=r"cannot write .*model\.safetensors.*No space left"),
        output_directory(tmp_path / "out") as work,
    ):
        write_weights(tuned, work, new.get)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="room is set aside on Linux only")
def test_a_disk_without_room_says_so_before_anything_is_made(tmp_path: Path):
    checkpoint = Checkpoint.open(save(tmp_path / "a"))
    asked: list[str] = []
    with (
        pytest.raises(OutputError, match=r"model\.safetensors.*File too large.*free some space"),
        limited(checkpoint.nbytes - 1),
    ):
        write_weights(checkpoint, out_of(tmp_path), asked.append)
    assert not asked


@pytest.mark.parametrize("answer", [errno.EOPNOTSUPP, errno.EINTR, errno.ENOSYS, None])
def test_a_file_system_that_keeps_no_room_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | None
):
    """None: a system without the call."""
    asked: list[int] = []

    class Library:
        def __init__(self, *_: object, **__: object) -> None:
            if answer is not None:
                self.fallocate64 = refuse

    def refuse(descriptor: int, mode: int, begin: int, size: int) -> int:
        asked.append(size)
        ctypes.set_errno(cast(int, answer))
        return -1

    monkeypatch.setattr(copying.ctypes, "CDLL", Library)
    new = {REPLACED[0]: weights(7)[REPLACED[0]]}
    tuned = Checkpoint.open(save(tmp_path / "a"))
    write_weights(tuned, out_of(tmp_path), new.get)
    expected = {name: new.get(name, tuned.load(name)) for name in tuned.tensors}
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert asked == ([] if answer is None else [tuned.shards[0].size])


def test_no_call_writes_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However large what replaces is; a longer call costs more a byte."""
    lengths: list[int] = []
    one, several = os.pwrite, os.pwritev

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        lengths.append(len(data))
        return one(file, data, offset)

    def pwritev(file: int, data: list[memoryview], offset: int) -> int:
        lengths.append(sum(map(len, data)))
        return several(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "pwritev", pwritev)
    size = copying.WRITE_BYTES // 4 * 5 // 2
    tuned = Checkpoint.open(save(tmp_path / "a", {"w": torch.zeros(size)}))
    new = torch.arange(size, dtype=torch.float32)
    write_weights(tuned, out_of(tmp_path), {"w": lambda: new})
    assert sum(lengths) == new.nbytes and max(lengths) == copying.WRITE_BYTES
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["w"], new)


def test_file_that_is_already_there_is_not_overwritten(tmp_path: Path):
    tuned = Checkpoint.open(save(tmp_path / "a"))
    out = out_of(tmp_path)
    (out / "model.safetensors").symlink_to(tmp_path / "a" / "model.safetensors")
    before = tree(tmp_path / "a")
    with pytest.raises(OutputError, match="File exists"):
        write_weights(tuned, out, {})
    assert tree(tmp_path / "a") == before


def test_error_of_a_replacement_passes_unchanged(tmp_path: Path):
    def fail() -> torch.Tensor:
        raise ZeroDivisionError

    tuned = Checkpoint.open(save(tmp_path / "a"))
    with pytest.raises(ZeroDivisionError):
        write_weights(tuned, out_of(tmp_path), {REPLACED[0]: fail})


def test_round_trip_through_transformers(tmp_path: Path):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = cast(Any, LlamaForCausalLM(config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "a", max_shard_size="4KB")
    tuned = Checkpoint.open(tmp_path / "a")
    assert len(tuned.shards) > 3
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert set(tuned.tensors) == set(state)
    names = [name for name in state if "_proj" in name]
    assert len(names) == 21
    for name in names:
        state[name] = state[name] + 1
    with output_directory(tmp_path / "out", inputs=[tuned.path], nbytes=tuned.nbytes) as work:
        write_weights(tuned, work, {name: lambda name=name: state[name] for name in names})
        copy_companions(tuned, work)
    assert sorted(tree(tmp_path / "out")) == sorted(tree(tmp_path / "a"))
    loaded = cast(Any, AutoModelForCausalLM).from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    tokens = loaded.generate(torch.tensor([[1, 5]]), max_new_tokens=3, do_sample=False)
    assert tokens.shape == (1, 5)


LARGE = """
import resource, sys
from pathlib import Path
import torch
from hcnr.checkpoint import Checkpoint, write_weights

tuned = Checkpoint.open(sys.argv[1])
told = []

def doubled(name):
    return 2 * tuned.load(name) if name.endswith("7.weight") else None

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_weights(tuned, Path(sys.argv[2]), doubled, told.append)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(1024 * (after - before), max(told), sum(told), tuned.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB on Linux")
def test_a_thousand_tensors_in_thirty_shards_pass_through_less_than_one(tmp_path: Path):
    made = {f"layers.{i}.weight": torch.full((128, 256), float(i)) for i in range(1000)}
    save(tmp_path / "a", made, shards=30)
    largest = max(file.stat().st_size for file in (tmp_path / "a").glob("*.safetensors"))
    ran = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path / "a", out_of(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    grown, step, told, nbytes = map(int, ran.stdout.split())
    assert grown < largest < nbytes / 29
    assert told == nbytes and step <= largest
    (tmp_path / "a" / "config.json").rename(tmp_path / "out" / "config.json")
    written = Checkpoint.open(tmp_path / "out")
    for i in (0, 7, 500, 997, 999):
        assert torch.equal(
            written.load(f"layers.{i}.weight"),
            made[f"layers.{i}.weight"] * (2 if i % 10 == 7 else 1),
        )
