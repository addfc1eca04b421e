"""A restored checkpoint by the loaders' name maps of vLLM and SGLang, read from their sources."""

import ast
import importlib.util
from pathlib import Path

import pytest

import hcnr
import hosts
from hcnr.checkpoint import Checkpoint
from pairs import config

FOLDERS = {"vllm": ("model_executor", "models"), "sglang": ("srt", "models")}


def source_of(engine: str, architecture: str) -> Path:
    """The file of an architecture in an installed package, or a skip that says what unpacks it."""
    hosts.require(engine, "make integrations-serving")
    spec = importlib.util.find_spec(engine)
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder.joinpath(*FOLDERS[engine], f"{architecture}.py")


def stacked(engine: str, architecture: str) -> dict[str, str]:
    """Part of a weight's name -> part of the parameter's that it is stacked into.

    Read, not imported: neither can be imported without a torch for GPUs.
    """
    for node in ast.walk(ast.parse(source_of(engine, architecture).read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "orig_to_new_stacked":
            table = ast.literal_eval(node.value)
            return {source: target for source, (target, _) in table.items()}
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.List)
            and "stacked_params_mapping" in ast.unparse(node.targets[0])
        ):
            return {source: target for target, source, _ in ast.literal_eval(node.value)}
    raise AssertionError(f"{engine}'s {architecture}.py has no map of stacked weights any more")


def loaded_as(names, table):
    """Parameter of the engine -> weights of the checkpoint that fill it."""
    found: dict[str, list[str]] = {}
    for name in names:
        target = name
        for source, new in table.items():
            if source in name:
                target = name.replace(source, new)
        found.setdefault(target, []).append(name)
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("engine", FOLDERS)
def test_names_and_config_are_what_the_loader_reads(
    pair, statistics, tmp_path, engine, architecture
):
    table = stacked(engine, architecture)
    hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "out", config=config(),
        statistics=statistics["output"],
    )  # fmt: skip
    tuned, restored = Checkpoint.open(pair["tuned"]), Checkpoint.open(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == (
        pair["tuned"] / "config.json"
    ).read_bytes()
    layout = [
        {name: (info.dtype, info.shape) for name, info in one.tensors.items()}
        for one in (tuned, restored)
    ]
    assert layout[0] == layout[1]
    filled = loaded_as(restored.tensors, table)
    blocks = restored.config["num_hidden_layers"]
    for block in range(blocks):
        prefix = f"model.layers.{block}"
        assert len(filled[f"{prefix}.self_attn.qkv_proj.weight"]) == 3
        assert len(filled[f"{prefix}.mlp.gate_up_proj.weight"]) == 2
        assert filled[f"{prefix}.mlp.down_proj.weight"] == [f"{prefix}.mlp.down_proj.weight"]
    assert len(filled) == len(restored.tensors) - 3 * blocks
