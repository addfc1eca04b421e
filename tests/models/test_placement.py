"""Names on disk that are not the model's: read, compared, repaired, and written as stored."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import ast
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CamembertConfig, CamembertForCausalLM

import hcnr
from families import RENAMED, make, perturbed
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError
from hcnr.models import placement
from hcnr.models.directory import DirectorySource
from hcnr.models.model import open_model
from hcnr.models.pair import Pair
from hcnr.models.source import ModelSource
from hcnr.models.targets import target_matrices
from hcnr.progress import Stages
from pairs import HONESTY, TASK, config, tokenizer

BLOCKS = {
    "gemma3_vision": "model.language_model.layers",
    "llava": "model.language_model.layers",
    "qwen2_5_vl": "model.language_model.layers",
    "mixtral": "model.layers",
    "gpt2": "transformer.h",
}


def without_prefix(directory: Path) -> None:
    """Names as openai-community/gpt2 has them, with a mask that no parameter is."""
    file = directory / "model.safetensors"
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(4, 4)}, file, metadata={"format": "pt"})


def write(family: str, root: Path) -> dict[str, Path]:
    base = make(family)
    for role, model in (("base", base), ("tuned", perturbed(base))):
        model.save_pretrained(root / role)
        tokenizer().save_pretrained(root / role)
        if family == "gpt2":
            without_prefix(root / role)
    return {"base": root / "base", "tuned": root / "tuned"}


@pytest.fixture(scope="module", params=RENAMED)
def pair(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return {"family": request.param, **write(request.param, root)}


def matrix_of(stored: str, source: DirectorySource) -> str:
    """The matrix that a stored tensor is, or is a part of."""
    found = re.fullmatch(r"(.*)\.block_sparse_moe\.experts\.(\d+)\.w([123])\.weight", stored)
    if found is None:
        return source.placed.placement.names.get(stored, stored).removesuffix(".weight")
    kind = "down_proj" if found[3] == "2" else "gate_up_proj"
    return f"{found[1]}.mlp.experts.{kind}.{found[2]}"


def models(pair) -> dict[str, torch.nn.Module]:
    return {role: open_model(pair[role], device="cpu") for role in ("base", "tuned")}


def test_the_names_differ(pair):
    source = DirectorySource(pair["tuned"])
    assert set(source.parameters) != set(source.checkpoint.tensors)


def test_every_parameter_is_the_one_that_transformers_loads(pair):
    source, model = DirectorySource(pair["tuned"]), open_model(pair["tuned"], device="cpu")
    assert type(model).__name__ == type(make(pair["family"])).__name__
    known = set(source.parameters)
    for name, parameter in model.named_parameters():
        assert name in known
        assert torch.equal(source.parameter(name), parameter), name
    assert source.fingerprint() == ModelSource(model).fingerprint()
    for name in source.matrices(("*",), ()):
        assert torch.equal(source.weight(name), ModelSource(model).weight(name)), name


def test_targets_are_the_language_blocks(pair):
    source = DirectorySource(pair["tuned"])
    names = list(source.matrices(("*",), ()))
    assert names == list(target_matrices(open_model(pair["tuned"], device="cpu")))
    assert all(name.startswith(f"{BLOCKS[pair['family']]}.") for name in names)
    assert len(names) >= 8


@pytest.mark.parametrize("kind", ["joint", "spectral"])
def test_restored_as_the_models_in_memory(pair, tmp_path, kind):
    settings = config(compensation=kind, axis="input")
    out = hcnr.restore(pair["base"], pair["tuned"], HONESTY, TASK, tmp_path / "out", settings)
    own = models(pair)
    model = hcnr.restore(
        own["base"], own["tuned"], HONESTY, TASK, config=settings, tokenizer=tokenizer()
    )
    stored, before = (load_file(path / "model.safetensors") for path in (out, pair["tuned"]))
    assert list(stored) == list(before)
    source = DirectorySource(out)
    for name, parameter in model.named_parameters():
        assert torch.equal(source.parameter(name), parameter), name
    selected = {matrix["name"] for matrix in model.hcnr_report["matrices"]}
    assert any("experts" in name for name in selected) == (pair["family"] == "mixtral")
    for name, tensor in stored.items():
        same = torch.equal(tensor, before[name])
        assert same == (matrix_of(name, source) not in selected), name


def test_interpolated_as_the_models_in_memory(pair, tmp_path):
    settings = config(compensation="interpolate", coefficient=0.3)
    out = hcnr.restore(pair["base"], pair["tuned"], out=tmp_path / "out", config=settings)
    own = models(pair)
    model = hcnr.restore(own["base"], own["tuned"], config=settings)
    written = open_model(out, device="cpu")
    for name, parameter in model.named_parameters():
        assert torch.equal(written.get_parameter(name), parameter), name
    before = Checkpoint.open(pair["tuned"]).tensors
    assert list(Checkpoint.open(out).tensors) == list(before)


def test_a_directory_beside_a_model_in_memory(pair, tmp_path):
    """Base on disk, tuned in memory: one name for both."""
    tuned = open_model(pair["tuned"], device="cpu")
    settings = config(compensation="interpolate", coefficient=1.0)
    model = hcnr.restore(pair["base"], tuned, config=settings)
    base = open_model(pair["base"], device="cpu")
    for name, parameter in model.named_parameters():
        assert torch.equal(base.get_parameter(name), parameter), name


def test_equal_models_are_refused(pair):
    with pytest.raises(CheckpointError, match="same weights"):
        Pair.open(pair["base"], pair["base"], config(), Stages())


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    root = tmp_path_factory.mktemp("gpt2")
    paths = write("gpt2", root)
    open_model(paths["tuned"], device="cpu").save_pretrained(root / "saved")
    tokenizer().save_pretrained(root / "saved")
    return {**paths, "saved": root / "saved"}


class TestOnePrefixOfTwo:
    """GPT-2 as it is published, fine-tuned and saved by transformers, which adds the prefix."""

    def test_restores_the_same(self, gpt2, tmp_path):
        weights = []
        for name in ("tuned", "saved"):
            out = hcnr.restore(
                gpt2["base"], gpt2[name], HONESTY, TASK, tmp_path / name, config(axis="input")
            )
            source = DirectorySource(out)
            weights.append({key: source.parameter(key) for key in source.shapes})
        ours, theirs = weights
        assert theirs.keys() <= ours.keys()
        for name, weight in theirs.items():
            assert torch.equal(weight, ours[name]), name

    def test_two_tensors_of_one_place_are_refused(self, gpt2, tmp_path):
        shutil.copytree(gpt2["base"], tmp_path / "twice")
        file = tmp_path / "twice" / "model.safetensors"
        tensors = load_file(file)
        tensors["transformer.ln_f.weight"] = tensors["ln_f.weight"] + 1
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"ln_f\.weight.*both transformer\.ln_f\.weight"):
            _ = DirectorySource(tmp_path / "twice").placed

    def test_an_adapter_is_merged_into_it(self, gpt2, tmp_path):
        from adapters import lora, write_adapter

        settings = lora(target_modules=["c_attn"], fan_in_fan_out=True)
        adapter = write_adapter(gpt2["base"], tmp_path / "adapter", settings)
        source = Pair.open(gpt2["base"], adapter, config(axis="input"), Stages()).tuned
        assert list(source.checkpoint.tensors) == list(Checkpoint.open(gpt2["base"]).tensors)
        changed = [
            name
            for name in source.parameters
            if not torch.equal(
                source.parameter(name), DirectorySource(gpt2["base"]).parameter(name)
            )
        ]
        assert changed == [f"transformer.h.{i}.attn.c_attn.weight" for i in range(2)]


def test_a_tied_weight_that_is_stored_under_another_name(tmp_path):
    """CamemBERT's head comes before the embedding that it is, in the model but not in the file."""
    settings = CamembertConfig(
        vocab_size=67, hidden_size=24, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=40, is_decoder=True,
    )  # fmt: skip
    model = CamembertForCausalLM(settings).eval()
    model.save_pretrained(tmp_path)
    source = DirectorySource(tmp_path)
    assert set(dict(model.named_parameters())) - set(source.parameters)
    assert source.fingerprint() == ModelSource(model).fingerprint()


def test_nothing_of_transformers_is_needed_that_5_17_has_not():
    """Machines with a GPU have that version; a name that is missing there ends every run."""
    tree = ast.parse(Path(placement.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers.")
        for alias in node.names
    }
    assert imported == {
        "WeightConverter", "WeightRenaming", "dot_natural_key", "get_model_conversion_mapping",
        "rename_source_key",
    }  # fmt: skip
