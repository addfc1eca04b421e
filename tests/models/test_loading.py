"""Loading: invented weights, half-converted files, errors of libraries, code of a checkpoint."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hcnr
from families import make
from hcnr.cli import app
from hcnr.errors import CheckpointError, HcnrError, ModelError
from hcnr.models.directory import DirectorySource
from hcnr.models.model import open_model, open_tokenizer
from hcnr.plan import plan_run
from pairs import HONESTY, TASK, config, tokenizer, write_jsonl, write_pair


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pair in single files."""
    return write_pair(tmp_path_factory.mktemp("whole"), shard_size="1GB")


def changed(directory: Path, new: Path, edit: Any) -> Path:
    """A copy of a checkpoint whose tensors were edited."""
    shutil.copytree(directory, new)
    tensors = load_file(new / "model.safetensors")
    edit(tensors)
    save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    return new


def settings(directory: Path, new: Path, file: str = "config.json", **values: Any) -> Path:
    """A copy of a checkpoint with other settings."""
    shutil.copytree(directory, new)
    content = json.loads((new / file).read_text())
    (new / file).write_text(json.dumps({**content, **values}))
    return new


MISSING = {
    "lm_head.weight": "tie_word_embeddings",
    "model.embed_tokens.weight": "download it completely",
    "model.norm.weight": "save all weights",
    "model.layers.1.input_layernorm.weight": "save all weights",
}


class TestMissingWeights:
    @pytest.mark.parametrize(("name", "cure"), MISSING.items())
    def test_named_before_anything_is_read(self, whole, tmp_path, name, cure, monkeypatch):
        broken = changed(whole["tuned"], tmp_path / "broken", lambda t: t.pop(name))
        monkeypatch.setattr("hcnr.models.directory.open_model", None)
        with pytest.raises(CheckpointError, match=f"{name}.*invent it at random.*{cure}"):
            hcnr.restore(**{**whole, "tuned": broken}, out=tmp_path / "out", config=config())
        with pytest.raises(CheckpointError, match=name):
            hcnr.measure(**{**whole, "base": broken}, config=config())
        assert not (tmp_path / "out").exists()

    def test_by_every_command_that_opens_a_model(self, whole, tmp_path, capsys):
        broken = changed(whole["tuned"], tmp_path / "broken", lambda t: t.pop("lm_head.weight"))
        with pytest.raises(CheckpointError, match="lm_head"):
            plan_run(whole["base"], broken, config())
        questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "w1", "answerable": False}])
        for command in (
            ["evaluate", str(broken), "--benchmarks", str(questions)],
            ["probe", str(whole["base"]), str(broken), "--honesty", str(whole["honesty"])],
            ["sweep", str(whole["base"]), str(broken), "--honesty", str(whole["honesty"]),
             "--task", str(whole["task"]), "--validation", str(questions)],
            ["chat", str(broken)],
            ["data", "make", "--model", str(broken), "--questions", str(questions),
             "--out", str(tmp_path / "made.jsonl")],
            ["run", str(whole["base"]), str(broken), "--task", str(whole["task"]),
             "--out", str(tmp_path / "run")],
        ):  # fmt: skip
            with pytest.raises(CheckpointError, match="lm_head"):
                app(command, standalone_mode=False)

    def test_also_where_the_model_is_opened(self, whole, tmp_path):
        broken = changed(whole["base"], tmp_path / "broken", lambda t: t.pop("model.norm.weight"))
        with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
            open_model(broken, device="cpu")

    def test_a_shape_that_config_json_does_not_have(self, whole, tmp_path):
        broken = settings(whole["base"], tmp_path / "broken", vocab_size=60)
        with pytest.raises(CheckpointError, match=r"embed_tokens.*\[67, 24\].*\[60, 24\]"):
            DirectorySource(broken).fingerprint()

    def test_tied_embeddings_are_not_missing(self, tmp_path):
        make_tied = make("gemma2")
        assert make_tied.config.tie_word_embeddings
        make_tied.save_pretrained(tmp_path / "tied")
        source = DirectorySource(tmp_path / "tied")
        assert not any("lm_head" in name for name in source.checkpoint.tensors)
        assert source.fingerprint() == DirectorySource(tmp_path / "tied").fingerprint()

    def test_the_skeleton_reads_no_weight(self, whole, monkeypatch):
        source = DirectorySource(whole["base"])
        monkeypatch.setattr("safetensors.safe_open", None)
        layers = source.matrices(("*",), ())
        assert len(layers) == 14
        assert all(layer.weight.is_meta for layer in layers.values())


class TestHalfConverted:
    @pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
    def test_names_of_a_wrapper(self, whole, tmp_path, prefix):
        def rename(tensors):
            for name in list(tensors):
                tensors[prefix + name] = tensors.pop(name)

        broken = changed(whole["tuned"], tmp_path / "broken", rename)
        with pytest.raises(CheckpointError, match=f"'{prefix}.*wrapper.*save the model inside"):
            DirectorySource(broken).fingerprint()

    def test_an_adapter_that_was_not_merged(self, whole, tmp_path):
        def add(tensors):
            tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(2, 24)

        broken = changed(whole["tuned"], tmp_path / "broken", add)
        with pytest.raises(CheckpointError, match=r"lora_A.*not merged.*merge_and_unload"):
            DirectorySource(broken).fingerprint()

    def test_a_leftover_quantization_config(self, whole, tmp_path):
        broken = settings(whole["tuned"], tmp_path / "broken",
                          quantization_config={"quant_method": "bitsandbytes"})  # fmt: skip
        with pytest.raises(CheckpointError, match=r"bitsandbytes.*although.*plain float32.*delete"):
            plan_run(whole["base"], broken, config())

    def test_another_label_of_architectures(self, whole, tmp_path):
        other = settings(whole["tuned"], tmp_path / "other",
                         architectures=["PeftModelForCausalLM"])  # fmt: skip
        messages = plan_run(whole["base"], other, config()).messages
        assert any("PeftModelForCausalLM in tuned" in message for message in messages)


WRONG = {
    "hidden_size": "24",
    "num_attention_heads": "four",
    "hidden_act": "nope",
    "vocab_size": None,
    "eos_token_id": "abc",
    "dtype": "float7",
    "tie_word_embeddings": "yes",
}


class TestWhatALibraryRaises:
    @pytest.mark.parametrize(("key", "value"), WRONG.items())
    def test_a_value_of_the_wrong_type_names_its_key(self, whole, tmp_path, key, value):
        broken = settings(whole["tuned"], tmp_path / "broken", **{key: value})
        match = "float7" if key == "dtype" else key
        with pytest.raises(HcnrError, match=f"broken.*{match}"):
            hcnr.restore(**{**whole, "tuned": broken}, out=tmp_path / "out", config=config())

    def test_a_padding_token_outside_the_embedding(self, whole, tmp_path):
        broken = settings(whole["tuned"], tmp_path / "broken", pad_token_id=999)
        with pytest.raises(ModelError, match=r"broken.*adding_idx"):
            DirectorySource(broken).fingerprint()

    def test_a_tokenizer_that_cannot_be_read(self, tmp_path):
        (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
        with pytest.raises(ModelError, match="no tokenizer can be loaded"):
            open_tokenizer(tmp_path)

    def test_a_generation_config_that_cannot_be_saved(self, tmp_path, monkeypatch):
        base, tuned = make("llama"), make("llama", seed=1)
        tuned.generation_config.do_sample = False
        tuned.generation_config.temperature = 0.3
        monkeypatch.setattr(importlib.import_module("hcnr.pipeline.run"), "end_losses", None)
        with pytest.raises(ModelError, match=r"LlamaForCausalLM cannot be saved: .*temperature"):
            hcnr.restore(base, tuned, HONESTY, TASK, tmp_path / "out", config=config(),
                         tokenizer=tokenizer())  # fmt: skip
        assert not (tmp_path / "out").exists()


class TestCodeOfACheckpoint:
    @pytest.fixture
    def asked(self, monkeypatch):
        questions = []
        monkeypatch.setattr("builtins.input", lambda *a: questions.append(a) or "y")
        return questions

    def test_a_model(self, whole, tmp_path, asked):
        auto = {"AutoConfig": "mod.C", "AutoModelForCausalLM": "mod.M"}
        own = settings(whole["tuned"], tmp_path / "own", model_type="own", auto_map=auto)
        (own / "mod.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        for call in (
            lambda: DirectorySource(own).fingerprint(),
            lambda: open_model(own, device="cpu"),
        ):
            with pytest.raises(ModelError, match=r"code of its own.*never runs"):
                call()
        assert not asked
        assert not (tmp_path / "ran").exists()

    def test_a_tokenizer(self, whole, tmp_path, asked):
        own = settings(whole["tuned"], tmp_path / "own", "tokenizer_config.json",
                       tokenizer_class="OwnTokenizer",
                       auto_map={"AutoTokenizer": ["mod.Tok", None]})  # fmt: skip
        (own / "tokenizer.json").unlink()
        (own / "mod.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        with pytest.raises(ModelError, match="no tokenizer can be loaded"):
            open_tokenizer(own)
        assert not asked
        assert not (tmp_path / "ran").exists()
