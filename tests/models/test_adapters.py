"""Adapters as TUNED: merged as PEFT merges them, kept once, refused where they cannot be right."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import hcnr
from hcnr.checkpoint import Checkpoint
from hcnr.cli import app
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ConfigError, HcnrError, ModelError
from hcnr.evaluation.evaluated_models import name_evaluated
from hcnr.models.adapter_files import adapter_settings
from hcnr.models.pair import Pair
from hcnr.models.resolving import resolve
from hcnr.plan import plan_run
from hcnr.progress import Stages
from pairs import bits, config, hashes, tokenizer

pytest.importorskip("peft", reason="the package peft is not installed")

import adapters
from adapters import adapted, lora, merged, write_adapter

FEW = 64
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "bias": {"target_modules": "all-linear"},
    "ranks": {"rank_pattern": {"v_proj": 1}, "alpha_pattern": {"q_proj": 9}},
    "fan": {"layers_to_transform": [1]},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lab"


@pytest.fixture(scope="module")
def adapter(pair, tmp_path_factory):
    return write_adapter(pair["base"], tmp_path_factory.mktemp("adapter") / "tuned-lora")


def edited(source: Path, place: Path, **changes: Any) -> Path:
    """A copy of an adapter with other settings."""
    shutil.copytree(source, place)
    content = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**content, **changes}))
    return place


def opened(base: Any, tuned: Any) -> Pair:
    return Pair.open(base, tuned, config(), Stages())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_peft_merges(pair, tmp_path, kind, dtype):
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(pair["base"], dtype=dtype).save_pretrained(base)
    place = write_adapter(base, tmp_path / "adapter", lora(**KINDS[kind]))
    expected = merged(base, place, dtype)
    checkpoint = Checkpoint.open(resolve(place).directory)
    before, changed = Checkpoint.open(base), set()
    assert list(checkpoint.tensors) == list(before.tensors)
    for name in checkpoint.tensors:
        found = checkpoint.load(name)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-7)
        if not torch.equal(found, before.load(name)):
            changed.add(name.split(".")[-2])
    assert {"q_proj", "v_proj"} <= changed
    assert ("lm_head" in changed) == (kind == "head")


def test_rounded_once_to_the_stored_dtype(pair, tmp_path):
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(pair["base"], dtype=torch.bfloat16).save_pretrained(base)
    place = write_adapter(base, tmp_path / "adapter")
    expected = merged(base, place, torch.float64)
    checkpoint = Checkpoint.open(resolve(place).directory)
    for name in checkpoint.tensors:
        assert torch.equal(checkpoint.load(name), expected[name].to(torch.bfloat16)), name


def test_merged_once_and_again_after_a_change(pair, adapter, cache, tmp_path):
    first = resolve(adapter)
    stamp = {path.name: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    again = resolve(adapter)
    assert again.directory == first.directory and cache in first.directory.parents
    assert stamp == {path.name: path.stat().st_mtime_ns for path in again.directory.iterdir()}
    assert (first.directory.stat().st_mode & 0o777) == (adapter.stat().st_mode & 0o777)
    other = edited(adapter, tmp_path / "tuned-lora", lora_alpha=7)
    assert resolve(other).directory != first.directory
    base = shutil.copytree(pair["base"], tmp_path / "base")
    one = resolve(edited(adapter, tmp_path / "on", base_model_name_or_path=str(base)))
    shard = min(base.glob("model-*.safetensors"))
    state = {name: weight + 1 for name, weight in load_file(shard).items()}
    save_file(state, shard)
    assert resolve(tmp_path / "on").directory != one.directory


def test_restored_like_the_merged_checkpoint(pair, adapter, tmp_path):
    """Everything after is that of an ordinary checkpoint; untouched matrices are not counted."""
    state = merged(pair["base"], adapter, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(pair["base"])
    model.load_state_dict(state)
    model.save_pretrained(tmp_path / "merged", max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path / "merged")
    data = {"honesty": pair["honesty"], "task": pair["task"]}
    mine = hcnr.restore(pair["base"], adapter, **data, out=tmp_path / "mine", config=config())
    yours = hcnr.restore(
        pair["base"], tmp_path / "merged", **data, out=tmp_path / "yours", config=config()
    )
    one, other = Checkpoint.open(mine), Checkpoint.open(yours)
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.load(name), other.load(name)) for name in one.tensors)
    report = json.loads((mine / "hcnr_report.json").read_text())
    assert report["summary"]["target_matrices"] == 4
    assert report["pair"]["tuned"] == adapter.name
    assert report["pair"]["sources"]["tuned"]["adapter"] == "LORA"
    assert sum("is an adapter (LORA) and was merged" in line for line in report["warnings"]) == 1
    card = (mine / "README.md").read_text()
    assert "an adapter (LORA) merged into `base`" in card and "library_name: transformers" in card
    assert "- lora" not in card and str(pair["base"]) not in card
    # The base that the adapter names, where it comes alone.
    alone = hcnr.restore(None, adapter, **data, out=tmp_path / "alone", config=config())
    assert hashes(alone) == hashes(mine)


def test_base_that_the_adapter_does_not_name(pair, adapter, tmp_path):
    base = shutil.copytree(pair["base"], tmp_path / "elsewhere")
    found = opened(base, adapter)
    (note,) = [message for message in found.messages if "is an adapter" in message]
    assert f"merged into '{base}', as given, although it names '{pair['base']}'" in note
    assert "although" not in " ".join(opened(pair["base"], adapter).messages)


@pytest.mark.parametrize("changes", [{}, {"base_model_name_or_path": "gone/"}], ids=["own", "gone"])
def test_evaluated_on_its_own_base(pair, adapter, tmp_path, changes):
    """What is asked is the model that was trained; the base given is for where its own is gone."""
    place = edited(adapter, tmp_path / "asked", **changes)
    (subject,) = name_evaluated([place], pair["tuned"])
    on = pair["tuned"] if changes else pair["base"]
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(subject.source.weight(name), Checkpoint.open(on).load(f"{name}.weight"))
    assert subject.label == "asked" and subject.source.notes


def test_in_memory(pair, adapter, loaded):
    base, before = loaded["base"], bits(loaded["base"])
    found = opened(base, adapter)
    expected = merged(pair["base"], adapter, torch.float32)
    name = "model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(found.tuned.weight(name), expected[f"{name}.weight"])
    peft_model = adapted(copy.deepcopy(base), lora())
    kept = bits(peft_model)
    for first in (base, None):
        other = opened(first, peft_model)
        torch.testing.assert_close(other.tuned.weight(name), expected[f"{name}.weight"])
        assert torch.equal(other.base.weight(name), base.get_parameter(f"{name}.weight"))
    assert bits(base) == before and bits(peft_model) == kept


def test_planned_without_merging(pair, adapter, cache):
    plan = plan_run(pair["base"], adapter, RestoreConfig(samples=8))
    assert plan.matrices == 4 and {kind.role for kind in plan.kinds} == {"q_proj", "v_proj"}
    assert "is an adapter (LORA)" in plan.messages[0] and not cache.exists()
    assert plan_run(None, adapter, RestoreConfig(samples=8)).kinds == plan.kinds
    with pytest.raises(CheckpointError, match="changes none of the targets"):
        plan_run(pair["base"], adapter, RestoreConfig(targets=("down_proj",)))


def refused(kind: type[HcnrError], text: str, base: Any, tuned: Any) -> None:
    with pytest.raises(kind, match=text) as caught:
        opened(base, tuned)
    assert "\n" not in str(caught.value)


def test_refusals(pair, adapter, tmp_path, cache):
    base = pair["base"]
    refused(ConfigError, "base is None, and tuned is no adapter", None, pair["tuned"])
    gone = edited(adapter, tmp_path / "gone", base_model_name_or_path="not/there")
    refused(ConfigError, "names 'not/there' as its base model, which is not there", None, gone)
    bare = edited(adapter, tmp_path / "bare", base_model_name_or_path=None)
    refused(ConfigError, "names no base model", None, bare)
    self_named = edited(adapter, tmp_path / "own", base_model_name_or_path=str(tmp_path / "own"))
    refused(ConfigError, "names itself", None, self_named)
    chain = edited(adapter, tmp_path / "chain", base_model_name_or_path=str(adapter))
    refused(ConfigError, "names another adapter", None, chain)
    other = edited(adapter, tmp_path / "task", task_type="SEQ_CLS")
    refused(ModelError, "is for SEQ_CLS, expected CAUSAL_LM", base, other)
    odd = edited(adapter, tmp_path / "odd", peft_type="NO_SUCH")
    refused(ModelError, "cannot be put on LlamaForCausalLM", base, odd)
    typeless = edited(adapter, tmp_path / "typeless", peft_type=None)
    refused(CheckpointError, "names no peft_type", base, typeless)
    wide = edited(adapter, tmp_path / "wide", r=4)
    refused(ModelError, "cannot be put on LlamaForCausalLM: .*size mismatch", base, wide)
    elsewhere = edited(adapter, tmp_path / "elsewhere", target_modules=["c_attn"])
    refused(ModelError, "c_attn", base, elsewhere)
    fewer = edited(adapter, tmp_path / "fewer", target_modules=["q_proj"])
    refused(CheckpointError, "has no place in the base model", base, fewer)
    more = edited(adapter, tmp_path / "more", target_modules=["q_proj", "v_proj", "k_proj"])
    refused(CheckpointError, "holds no .*k_proj.*PEFT would invent", base, more)
    saved = edited(adapter, tmp_path / "saved", modules_to_save=["lm_head"])
    refused(CheckpointError, "holds no 'lm_head'", base, saved)
    full = shutil.copytree(adapter, tmp_path / "full")
    shutil.copyfile(pair["tuned"] / "config.json", full / "config.json")
    (full / "model.safetensors").touch()
    refused(CheckpointError, "an adapter .* and full weights", base, full)
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(CheckpointError, "found adapter_model.bin instead", base, pickled)
    cut = shutil.copytree(adapter, tmp_path / "cut")
    weights = (cut / "adapter_model.safetensors").read_bytes()
    (cut / "adapter_model.safetensors").write_bytes(weights[:-1])
    refused(CheckpointError, "truncated", base, cut)
    assert not cache.exists() or not list(cache.iterdir())


def test_prompts_are_no_weights(pair, tmp_path):
    from peft import PromptTuningConfig

    place = tmp_path / "prompt"
    write_adapter(
        pair["base"], place, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    refused(ModelError, "changes no weights but adds to the prompt", pair["base"], place)


@pytest.fixture
def tied(tmp_path):
    settings = LlamaConfig(
        vocab_size=FEW, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(settings)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0, 0.25)
    model.save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def test_tied_heads(tied, tmp_path):
    """Merged into both or into one alone, an embedding's adapter is never quietly another one."""
    assert opened(tied, write_adapter(tied, tmp_path / "plain")).tuned.notes
    targets = ["q_proj", "embed_tokens"]
    embedding = write_adapter(tied, tmp_path / "embedding", lora(target_modules=targets))
    refused(ModelError, "computes something else once it is merged", tied, embedding)
    head = write_adapter(tied, tmp_path / "head", lora(modules_to_save=["lm_head"]))
    refused(CheckpointError, "gives the model a lm_head.weight of its own", tied, head)


def test_without_peft(pair, adapter, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name)
    )
    refused(ModelError, r"pip install 'hcnr\[peft\]'", pair["base"], adapter)


def test_a_tokenizer_of_its_own(pair, adapter, tmp_path):
    place = shutil.copytree(adapter, tmp_path / "words")
    words = tokenizer()
    words.chat_template = "of the adapter"
    words.save_pretrained(place)
    assert opened(pair["base"], place).tokenizer().chat_template == "of the adapter"
    assert opened(pair["base"], adapter).tokenizer().chat_template is None


def test_command_line(pair, adapter, tmp_path, capsys):
    """BASE may be left out; a single model that is no adapter is refused."""
    data = ["--honesty", str(pair["honesty"]), "--task", str(pair["task"]), "--samples", "8"]
    kind = ["--compensation", "none", "--quiet"]
    out = tmp_path / "out"
    app(["restore", str(adapter), *data, *kind, "--out", str(out)], standalone_mode=False)
    assert Checkpoint.open(out).tensors.keys() == Checkpoint.open(pair["base"]).tensors.keys()
    with pytest.raises(ConfigError, match="one model is named"):
        app(["restore", str(pair["tuned"]), *data, "--out", str(out)], standalone_mode=False)
    with pytest.raises(CheckpointError, match="does not exist"):
        app(["plan", str(tmp_path / "nowhere")], standalone_mode=False)


def test_settings_are_read_without_peft(adapter, pair):
    found = adapter_settings(adapter)
    assert (found.kind, found.base) == ("LORA", str(pair["base"]))
    assert adapters.lora().r == 3
