"""Quantised checkpoints: the numbers they mean, by float64, and what a run makes of them."""

import importlib.util
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hcnr
from full_disk import limited
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError, HcnrError, ModelError, OutputError
from hcnr.models.quantised import convert, formats
from hcnr.models.resolving import resolve
from pairs import config
from quantised import FP8, KINDS, write_plain, write_quantised

BY = {"compressed-tensors": "compressed_tensors", "bitsandbytes": "bitsandbytes"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lab"


def needs(method: str) -> None:
    """Skip where the library of a format is not installed; the refusal has a test of its own."""
    if (name := BY.get(method)) and importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed")


def edit(place: Path, change: Any) -> None:
    """Change the tensors of all files of a checkpoint."""
    for file in place.glob("*.safetensors"):
        held = load_file(file)
        change(held)
        save_file(held, file, {"format": "pt"})
    file = place / "model.safetensors.index.json"
    names = {n: f.name for f in place.glob("*.safetensors") for n in load_file(f)}
    file.write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_what_the_codes_and_scales_mean(pair, tmp_path, kind, dtype):
    needs(KINDS[kind][0]["quant_method"])
    truth = write_quantised(pair["tuned"], tmp_path / "q", kind, dtype=dtype)
    given = resolve(tmp_path / "q")
    checkpoint = Checkpoint.open(given.directory)
    assert checkpoint.tensors.keys() == truth.keys()
    for name, exact in truth.items():
        weight = checkpoint.load(name)
        assert weight.dtype == dtype
        rounding = torch.finfo(dtype).eps / 2 + torch.finfo(torch.float32).eps
        assert ((weight.double() - exact.double()).abs() <= rounding * exact.abs()).all(), name
    assert "quantization_config" not in (given.directory / "config.json").read_text()
    assert given.name == str(tmp_path / "q")
    assert given.read_paths == (tmp_path / "q", given.directory)
    assert given.facts["quantised"] == KINDS[kind][0]["quant_method"]
    (note,) = given.notes
    assert "was dequantised by" in note and str(dtype).removeprefix("torch.") in note
    # Once: the next run finds it.
    assert resolve(tmp_path / "q").directory == given.directory


@pytest.mark.parametrize("which", ["tuned", "base", "both"])
def test_a_run_is_that_of_the_plain_weights(pair, tmp_path, which):
    sides = {"base": pair["base"], "tuned": pair["tuned"]}
    plain = dict(sides)
    for side in ("base", "tuned") if which == "both" else (which,):
        truth = write_quantised(pair[side], tmp_path / f"q-{side}", "fp8-blocks")
        sides[side] = tmp_path / f"q-{side}"
        plain[side] = write_plain(pair[side], tmp_path / f"p-{side}", truth, torch.bfloat16)
    data = {"honesty": pair["honesty"], "task": pair["task"], "config": config(dtype="float32")}
    mine = hcnr.restore(sides["base"], sides["tuned"], out=tmp_path / "mine", **data)
    yours = hcnr.restore(plain["base"], plain["tuned"], out=tmp_path / "yours", **data)
    one, other = Checkpoint.open(mine), Checkpoint.open(yours)
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.load(name), other.load(name)) for name in one.tensors)
    assert "quantization_config" not in one.config
    report = json.loads((mine / "hcnr_report.json").read_text())
    count = 2 if which == "both" else 1
    assert sum("was dequantised by torch" in line for line in report["warnings"]) == count
    side = "tuned" if which == "both" else which
    assert report["pair"]["sources"][side]["quantised"] == "fp8"
    assert report["pair"]["sources"][side]["dequantised_to"] == "bfloat16"


def changed_weights(place: Path) -> None:
    """The same sizes and the same time of change, as an unpacked archive has them."""
    for file in place.glob("*.safetensors"):
        about = file.stat()
        held = load_file(file)
        held = {n: t.flip(0) if t.dtype == torch.bfloat16 else t for n, t in held.items()}
        fresh = file.with_suffix(".new")
        save_file(held, fresh, {"format": "pt"})
        os.replace(fresh, file)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)


def changed_config(place: Path) -> None:
    known = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**known, "rope_scaling_of_mine": 2}))


def changed_tokenizer(place: Path) -> None:
    known = json.loads((place / "tokenizer_config.json").read_text())
    known["chat_template"] = "another"
    (place / "tokenizer_config.json").write_text(json.dumps(known))


def new_template(place: Path) -> None:
    (place / "chat_template.jinja").write_text("another")


@pytest.mark.parametrize(
    "change", [changed_weights, changed_config, changed_tokenizer, new_template]
)
def test_what_stands_for_it_changes_with_every_file(pair, tmp_path, change):
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    first = resolve(tmp_path / "q").directory
    change(tmp_path / "q")
    second = resolve(tmp_path / "q").directory
    assert second != first and resolve(tmp_path / "q").directory == second
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        own, stands = (place / name for place in (tmp_path / "q", second))
        assert own.exists() == stands.exists()
        assert not own.exists() or own.read_bytes() == stands.read_bytes()
    one, other = Checkpoint.open(tmp_path / "q"), Checkpoint.open(second)
    name = next(n for n, info in one.tensors.items() if info.dtype == torch.bfloat16)
    assert torch.equal(one.load(name), other.load(name))


def test_another_version_of_the_library_dequantises_anew(pair, tmp_path, monkeypatch):
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    first = resolve(tmp_path / "q").directory
    monkeypatch.setattr(torch, "__version__", "99.0")
    second = resolve(tmp_path / "q")
    assert second.directory != first and second.facts["dequantised_by"] == "torch 99.0"


def test_a_full_disk_is_told_and_leaves_nothing(pair, tmp_path, cache):
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    with (
        pytest.raises(OutputError, match=r"cannot be written below .*free space there"),
        limited(20_000),
    ):
        resolve(tmp_path / "q")
    assert list(cache.iterdir()) == []
    assert Checkpoint.open(resolve(tmp_path / "q").directory).tensors


def almost_full(monkeypatch, free: int) -> None:
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr("hcnr.cache.shutil.disk_usage", lambda _: usage)


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_room_is_told_before_anything_is_written(
    pair, tmp_path, cache, monkeypatch, kind
):
    needs(KINDS[kind][0]["quant_method"])
    truth = write_quantised(pair["tuned"], tmp_path / "q", kind)
    nbytes = 2 * sum(one.numel() for one in truth.values())
    almost_full(monkeypatch, nbytes - 1)
    monkeypatch.setattr(convert, "save_file", lambda *_, **__: pytest.fail("it was written"))
    with pytest.raises(OutputError, match=r"it takes \S+ GB, and \S+ GB are free there\); free"):
        resolve(tmp_path / "q")
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("HCNR_CACHE", str(cache))
    almost_full(monkeypatch, nbytes)
    assert Checkpoint.open(resolve(tmp_path / "q").directory).tensors


def test_an_interrupted_one_counts_for_nothing(pair, tmp_path, cache, monkeypatch):
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    monkeypatch.setattr(convert, "_SHARD", 8_000)
    save, calls = convert.save_file, []

    def interrupted(*arguments: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(*arguments, **more)

    monkeypatch.setattr(convert, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve(tmp_path / "q")
    assert list(cache.iterdir()) == []
    whole = resolve(tmp_path / "q").directory
    assert len(Checkpoint.open(whole).shards) > 2
    # Nor does one of which a file was taken away.
    next(iter(whole.glob("*.safetensors"))).unlink()
    assert len(Checkpoint.open(resolve(tmp_path / "q").directory).shards) > 2


def test_files_are_cut_and_plain_tensors_stay(pair, tmp_path, monkeypatch):
    whole = write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    monkeypatch.setattr(convert, "_SHARD", 8_000)
    place = resolve(tmp_path / "q").directory
    checkpoint = Checkpoint.open(place)
    assert len(checkpoint.shards) > 2 and checkpoint.tensors.keys() == whole.keys()
    for shard in checkpoint.shards:
        sizes = [info.nbytes for info in shard.tensors]
        assert sum(sizes) <= 8_000 or len(sizes) == 1
    for shard, after in itertools.pairwise(checkpoint.shards):
        largest = max(info.nbytes for info in after.tensors)
        assert sum(info.nbytes for info in shard.tensors) + largest > 8_000
    index = json.loads((place / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(i.nbytes for i in checkpoint.tensors.values())
    for name, stored in whole.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(checkpoint.load(name), stored)
    assert not list(place.glob("*.part"))


def test_what_quantises_activations_is_left_out(pair, tmp_path):
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-tensor")
    name = "model.layers.0.mlp.down_proj.input_scale"
    edit(tmp_path / "q", lambda held: held.update({name: torch.tensor(1.0)}) if any(
        "mlp.down_proj.weight" in n for n in held) and FP8 in {t.dtype for t in held.values()}
        else None)  # fmt: skip
    assert name not in Checkpoint.open(resolve(tmp_path / "q").directory).tensors


def without(held: dict[str, torch.Tensor]) -> None:
    held.pop("model.layers.0.mlp.down_proj.weight_scale_inv", None)


def twice(held: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.down_proj.weight_scale_inv"
    if name in held:
        held[name.removesuffix("_inv")] = held[name] * 2


def cut(held: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.down_proj.weight_scale_inv"
    if name in held:
        held[name] = held[name][:, :1].contiguous()


def stray(held: dict[str, torch.Tensor]) -> None:
    if "model.layers.0.mlp.down_proj.weight" in held:
        held["model.layers.0.mlp.down_proj.other"] = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without, ["down_proj.weight", "as float8 with 0 scales", "expected one"]),
        (twice, ["down_proj.weight", "as float8 with 2 scales", "expected one"]),
        (cut, ["the scales of 'model.layers.0.mlp.down_proj.weight'", "for blocks of 16 x 24"]),
        (stray, ["down_proj.other", "uint8", "part of no weight"]),
    ],
)
def test_refused_where_a_weight_is_not_whole(pair, tmp_path, cache, change, words):
    write_quantised(pair["tuned"], tmp_path / "q", "fp8-blocks")
    edit(tmp_path / "q", change)
    with pytest.raises(CheckpointError) as caught:
        resolve(tmp_path / "q")
    assert all(word in str(caught.value) for word in words)
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("package", ["bitsandbytes", "compressed-tensors"])
def test_refused_with_the_cure_without_the_library(pair, tmp_path, monkeypatch, package):
    if package == "bitsandbytes":
        write_quantised(pair["tuned"], tmp_path / "q", "ct-int8")
        config_file = tmp_path / "q" / "config.json"
        known = json.loads(config_file.read_text())
        known["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        config_file.write_text(json.dumps(known))
    else:
        write_quantised(pair["tuned"], tmp_path / "q", "ct-pack4")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=f"is not installed; run pip install {package}"):
        hcnr.restore(pair["base"], tmp_path / "q", out=tmp_path / "out", config=config(),
                     honesty=pair["honesty"], task=pair["task"])  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", "quanto"])
def test_what_cannot_be_undone_here_is_refused_as_before(pair, tmp_path, method):
    shutil.copytree(pair["tuned"], tmp_path / "q")
    known = json.loads((tmp_path / "q" / "config.json").read_text())
    known["quantization_config"] = {"quant_method": method}
    (tmp_path / "q" / "config.json").write_text(json.dumps(known))
    codes = {"model.layers.0.mlp.down_proj.qweight": torch.zeros(2, 2, dtype=torch.int32)}
    edit(tmp_path / "q", lambda held: held.update(codes) if "lm_head.weight" in held else None)
    with pytest.raises(HcnrError, match=f"quant_method: {method}.*GPTQ or AWQ.*no way back from"):
        hcnr.restore(pair["base"], tmp_path / "q", out=tmp_path / "out", config=config(),
                     honesty=pair["honesty"], task=pair["task"])  # fmt: skip


@pytest.mark.parametrize("part", ["weight_g_idx", "weight_mask"])
def test_an_order_of_columns_is_refused(pair, tmp_path, part):
    needs("compressed-tensors")
    write_quantised(pair["tuned"], tmp_path / "q", "ct-pack4")
    name = f"model.layers.0.mlp.down_proj.{part}"
    one = {name: torch.arange(4, dtype=torch.int32)}
    edit(tmp_path / "q", lambda held: held.update(one) if "lm_head.weight" in held else None)
    with pytest.raises(CheckpointError, match=f"{part}.*an order of columns"):
        resolve(tmp_path / "q")


def test_another_packing_is_refused(pair, tmp_path):
    needs("compressed-tensors")
    write_quantised(pair["tuned"], tmp_path / "q", "ct-pack4")
    name = "model.layers.0.mlp.down_proj.weight_packed"

    def wider(held: dict[str, torch.Tensor]) -> None:
        if name in held:
            held[name] = torch.nn.functional.pad(held[name], (0, 1))

    edit(tmp_path / "q", wider)
    with pytest.raises(CheckpointError, match="packed by another version"):
        resolve(tmp_path / "q")


def test_plan_and_evaluate_take_them(pair, tmp_path):
    from hcnr.models.pair import open_evaluated
    from hcnr.plan import plan_run

    write_quantised(pair["tuned"], tmp_path / "q", "fbgemm")
    notes = plan_run(pair["base"], tmp_path / "q", config()).messages
    assert any("was dequantised by torch" in note for note in notes)
    source = open_evaluated(tmp_path / "q")
    assert str(source) == str(tmp_path / "q") and source.facts["quantised"] == "fbgemm_fp8"


BITS: dict[str, dict[str, Any]] = {
    "nf4": {"quant_type": "nf4", "compress_statistics": False},
    "nf4-nested": {"quant_type": "nf4", "compress_statistics": True},
    "fp4": {"quant_type": "fp4", "compress_statistics": False},
}


@pytest.mark.parametrize("kind", [*BITS, "int8"])
def test_weights_of_bitsandbytes(pair, tmp_path, kind):
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def pack(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if kind == "int8":
            scale = weight.abs().amax(1).float()
            codes = (weight / scale.double()[:, None] * 127).round().to(torch.int8)
            held = {
                "weight": codes,
                "SCB": scale,
                "weight_format": torch.zeros((), dtype=torch.uint8),
            }
            return held, codes.double() * scale.double()[:, None] / 127
        packed, state = bitsandbytes.functional.quantize_4bit(weight.bfloat16(), **BITS[kind])
        held = {"weight": packed}
        held |= {f"weight.{part}": one for part, one in state.as_dict(packed=True).items()}
        codes = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(-1).long()
        size = state.absmax
        if state.nested:
            nested = state.state2.absmax.double().repeat_interleave(state.state2.blocksize)
            size = state.state2.code[size.long()].double() * nested[: len(size)] + state.offset
        spread = size.double().repeat_interleave(state.blocksize)[: weight.numel()]
        meaning = state.code.double()[codes[: weight.numel()]] * spread
        return held, meaning.view(weight.shape)

    settings = {"quant_method": "bitsandbytes", "load_in_4bit": kind != "int8"}
    truth = write_quantised(pair["tuned"], tmp_path / "q", "", pack=pack, settings=settings,
                            dtype=torch.float32)  # fmt: skip
    checkpoint = Checkpoint.open(resolve(tmp_path / "q").directory)
    assert checkpoint.tensors.keys() == truth.keys()
    for name, exact in truth.items():
        error = (checkpoint.load(name).double() - exact.double()).abs().max()
        assert error <= 4e-7 * exact.abs().max(), name


def test_a_gguf_file_or_its_directory(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    pytest.importorskip("accelerate", reason="the package accelerate is not installed")
    from packages import write_gguf

    (tmp_path / "dir").mkdir()
    meant = write_gguf(tmp_path / "dir" / "tiny.gguf")
    for place in (tmp_path / "dir", tmp_path / "dir" / "tiny.gguf"):
        given = resolve(place)
        checkpoint = Checkpoint.open(given.directory)
        for name, values in meant.items():
            assert torch.equal(checkpoint.load(name), torch.tensor(values).bfloat16()), name
        assert "quantization_config" not in checkpoint.config
        assert given.facts["quantised"] == "gguf" and "is a GGUF file" in given.notes[0]


def test_the_command_says_it(pair, tmp_path):
    from commands import run

    write_quantised(pair["tuned"], tmp_path / "q", "fp8-tensor")
    said = run("plan", pair["base"], tmp_path / "q").stdout
    assert "was dequantised by torch" in " ".join(said.split())
