"""Which list holds the blocks; weights of it that no repair reaches are named everywhere."""

import json
from typing import Any

import pytest
import torch
from transformers import GitConfig, GitForCausalLM, MixtralConfig, MixtralForCausalLM

import hcnr
from families import COMMON, GROUPED, make
from hcnr.models.targets import out_of_reach, target_matrices, transformer_blocks
from hcnr.plan import plan_run
from pairs import HONESTY, TASK, config, tokenizer

EXPERTS = 4 * (2 * 40 * 24 + 24 * 40)
ATTENTION = 2 * 24 * 24 + 2 * 12 * 24


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A pair whose experts are stored as one tensor."""
    root = tmp_path_factory.mktemp("experts")
    for seed, role in enumerate(("base", "tuned")):
        torch.manual_seed(seed)
        MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=4)).save_pretrained(
            root / role
        )
        tokenizer().save_pretrained(root / role)
    return {"base": root / "base", "tuned": root / "tuned"}


def test_of_experts():
    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=4))
    found = out_of_reach(model)
    assert found is not None
    assert found.names == tuple(f"model.layers.{i}.mlp.gate.weight" for i in range(2))
    assert found.share == pytest.approx(96 / (EXPERTS + ATTENTION + 96))


def test_of_experts_of_a_form_of_their_own():
    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=4))
    mlp: Any = model.model.layers[1].mlp
    del mlp.experts.has_gate
    found = out_of_reach(model)
    assert found is not None
    assert found.parameters == EXPERTS + 2 * 96
    assert found.share == pytest.approx((EXPERTS + 192) / (2 * (EXPERTS + ATTENTION + 96)))
    assert "mlp.experts.gate_up_proj, mlp.experts.down_proj" in found.kinds
    assert "model.layers.1.mlp.experts.down_proj" in found.names
    assert not any(name.startswith("model.layers.1.mlp.exp") for name in target_matrices(model))


def test_of_ordinary_models():
    assert out_of_reach(make("llama")) is None
    assert out_of_reach(torch.nn.Linear(2, 2)) is None


def test_in_plan_run_report_and_card(experts, tmp_path):
    settings = config(compensation="none")
    (planned,) = [m for m in plan_run(**experts, config=settings).messages if "out of reach" in m]
    assert "mlp.gate.weight" in planned
    out = hcnr.restore(**experts, honesty=HONESTY, task=TASK, out=tmp_path / "out", config=settings)
    report = json.loads((out / "hcnr_report.json").read_text())
    assert planned in report["warnings"]
    share = report["summary"]["out_of_reach"]["share"]
    assert (
        f"| out of reach | {share:.1%} of the blocks' weights (" in (out / "README.md").read_text()
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_a_tower_that_is_larger_than_the_text_is_not_the_blocks(layers):
    """GIT's image encoder stands beside its text, whose configuration is the model's."""
    vision = {**COMMON, "hidden_size": 48, "num_hidden_layers": 2, "image_size": 8}
    config = GitConfig(**{**COMMON, "num_hidden_layers": layers}, vision_config=vision)
    with torch.device("meta"):
        model = GitForCausalLM(config)
    assert transformer_blocks(model) == "git.encoder.layer"
