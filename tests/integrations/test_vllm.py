"""A restored checkpoint by the name maps of vLLM's loader, read from the installed package."""

import ast
import importlib.util
from pathlib import Path

import hcnr
import hosts
from hcnr.checkpoint import Checkpoint
from pairs import config

hosts.require("vllm")


def stacked(architecture: str) -> dict[str, str]:
    """Where the loader of an architecture puts weights that it stacks.

    Read, not imported: vLLM cannot be imported without a torch for GPUs.
    """
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    tree = ast.parse((folder / "model_executor" / "models" / f"{architecture}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "orig_to_new_stacked":
            table = ast.literal_eval(node.value)
            return {source: target for source, (target, _) in table.items()}
    raise AssertionError(f"vLLM's {architecture}.py has no map of stacked weights any more")


def loaded_as(names, table):
    """Parameter of vLLM -> weights of the checkpoint that fill it."""
    found: dict[str, list[str]] = {}
    for name in names:
        target = name
        for source, new in table.items():
            if source in name:
                target = name.replace(source, new)
        found.setdefault(target, []).append(name)
    return found


def test_names_and_config_are_what_the_loader_reads(pair, statistics, tmp_path):
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
    filled = loaded_as(restored.tensors, stacked("llama"))
    blocks = restored.config["num_hidden_layers"]
    for block in range(blocks):
        prefix = f"model.layers.{block}"
        assert len(filled[f"{prefix}.self_attn.qkv_proj.weight"]) == 3
        assert len(filled[f"{prefix}.mlp.gate_up_proj.weight"]) == 2
        assert filled[f"{prefix}.mlp.down_proj.weight"] == [f"{prefix}.mlp.down_proj.weight"]
    assert len(filled) == len(restored.tensors) - 3 * blocks
