"""GPT-2's transposed layers against the same model with `nn.Linear`s in their place."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import hcnr
from families import VOCABULARY, make, perturbed
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError
from hcnr.models.linear import (
    as_matrix,
    as_stored,
    ignoring,
    ignoring_all,
    is_linear,
    shape_of,
    sharing_layers,
)
from hcnr.models.targets import out_of_reach, target_matrices
from hcnr.plan import plan_run
from pairs import HONESTY, TASK, bits, config, tokenizer

KINDS = ("none", "sum", "joint", "balanced", "spectral", "natural")
DATA: dict[str, Any] = {"honesty": HONESTY, "task": TASK}


def gpt2() -> GPT2LMHeadModel:
    settings = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=24, n_layer=2, n_head=4, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(settings)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.data.normal_(0, 0.25)
            else:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def untransposed(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """A copy that computes the same with an `nn.Linear` for every transposed layer."""
    twin = copy.deepcopy(model)
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, Conv1D):
            into, out = layer.weight.shape
            linear = nn.Linear(into, out)
            linear.weight.data.copy_(layer.weight.data.T)
            linear.bias.data.copy_(layer.bias.data)
            twin.set_submodule(name, linear)
    return twin


@pytest.fixture(scope="module")
def models():
    base = gpt2()
    return {"base": base, "tuned": perturbed(base)}


@pytest.fixture(scope="module")
def twins(models):
    return {role: untransposed(model) for role, model in models.items()}


@pytest.fixture(scope="module")
def places(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("gpt2")
    for role, model in models.items():
        model.save_pretrained(root / role)
        tokenizer().save_pretrained(root / role)
    return {role: root / role for role in models}


def test_layouts(models, twins):
    layer = models["base"].transformer.h[0].mlp.c_fc
    twin = twins["base"].transformer.h[0].mlp.c_fc
    assert shape_of(layer) == shape_of(twin) == (96, 24)
    matrix = as_matrix(layer, layer.weight)
    assert torch.equal(matrix, twin.weight) and matrix.is_contiguous()
    assert torch.equal(as_stored(layer, matrix), layer.weight)
    assert as_matrix(twin, twin.weight) is twin.weight is as_stored(twin, twin.weight)
    assert not is_linear(nn.Embedding(3, 3)) and not is_linear(None)
    assert list(target_matrices(models["base"])) == list(target_matrices(twins["base"]))
    assert out_of_reach(models["base"]) is None
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            models["base"](ids).logits, twins["base"](ids).logits, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("axis", ["output", "input"])
def test_the_same_scores_and_curvature(models, twins, places, axis):
    settings = config(axis=axis, compensation="balanced", all_hessians=True)
    expected = hcnr.measure(**twins, **DATA, config=settings, tokenizer=places["tuned"])
    for pair in (models, places):
        found = hcnr.measure(**pair, **DATA, config=settings, tokenizer=places["tuned"])
        assert found.matrices == expected.matrices and len(found.matrices) == 8
        for data_set in ("honesty", "task"):
            for mine, other in (
                (found.scores, expected.scores),
                (found.hessians, expected.hessians),
            ):
                for name, value in other[data_set].items():
                    scale = float(value.abs().max())
                    torch.testing.assert_close(
                        mine[data_set][name], value, rtol=2e-4, atol=2e-5 * scale
                    )


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_restored_weights(models, twins, places, tmp_path, axis, kind):
    if axis == "input" and kind in ("spectral", "natural"):
        pytest.skip("two-sided repairs have no axis")
    settings = config(axis=axis, compensation=kind, damping=0.05)
    given: dict[str, Any] = {**DATA, "config": settings, "tokenizer": places["tuned"]}
    kept = bits(models["tuned"])
    expected = hcnr.restore(**twins, **given)
    found = hcnr.restore(**models, **given)
    out = hcnr.restore(**places, **given, out=tmp_path / "out")
    assert bits(models["tuned"]) == kept
    written = Checkpoint.open(out)
    before = Checkpoint.open(places["tuned"])
    assert written.tensors.keys() == before.tensors.keys()
    loaded = AutoModelForCausalLM.from_pretrained(out)
    changed = 0
    for name, layer in target_matrices(expected).items():
        tuned = twins["tuned"].get_parameter(f"{name}.weight")
        changed += not torch.equal(layer.weight, tuned)
        for model in (found, loaded):
            weight = model.get_parameter(f"{name}.weight")
            assert weight.shape == written.info(f"{name}.weight").shape == layer.weight.T.shape
            torch.testing.assert_close(weight, layer.weight.T, rtol=2e-3, atol=2e-4)
    report = json.loads((out / "hcnr_report.json").read_text())["summary"]
    assert changed == report["selected_matrices"] > 0 and "out_of_reach" not in report


def test_planned(places, twins):
    plan = plan_run(**places, config=config())
    shapes = {kind.role: kind.shape for kind in plan.kinds}
    assert shapes["c_fc"] == (96, 24) and shapes["c_attn"] == (72, 24) and plan.matrices == 8


def test_per_neuron_fisher_of_any_module():
    torch.manual_seed(0)
    layer, x = Conv1D(5, 3), torch.randn(4, 2, 3)
    model = nn.Sequential(nn.Identity(), layer)
    with hcnr.NeuronFisher(model, axis="output") as fisher:
        model(x.requires_grad_()).square().sum().backward()
    squares = torch.zeros(5)
    for sample in x.detach():
        weight = layer.weight.detach().clone().requires_grad_()
        (sample @ weight + layer.bias.detach()).square().sum().backward()
        assert weight.grad is not None
        squares += weight.grad.square().sum(0)
    torch.testing.assert_close(fisher.scores["1"], squares / len(x))


def test_as_an_adapter(places, tmp_path):
    pytest.importorskip("peft", reason="the package peft is not installed")
    from adapters import assert_equal
    from adapters import merged_by_user as merged

    given = {**DATA, "config": config()}
    full = hcnr.restore(**places, **given, out=tmp_path / "full")
    out = tmp_path / "adapter"
    hcnr.restore(**places, **given, out=out, out_format="adapter", adapter_rank=96)
    assert_equal(full, merged(places["tuned"], out))


def test_transposed_in_one_alone(places, tmp_path, models):
    """A pair of other shapes is refused as it is, and never transposed into fitting."""
    other = copy.deepcopy(models["tuned"]).config
    other.n_inner = 48
    GPT2LMHeadModel(other).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"c_fc.weight' has the shape \[24, 96\] in base"):
        plan_run(places["base"], tmp_path / "other", config())


def test_the_pattern_that_leaves_a_matrix_out():
    names = [f"model.layers.{i}.mlp.{kind}" for i in range(2) for kind in ("router", "up_proj")]
    routers = [name for name in names if name.endswith("router")]
    assert ignoring(names[0], routers, names) == "mlp.router"
    assert ignoring(names[0], routers[:1], names) == names[0]
    assert ignoring("router", ["router"], ["router"]) == "router"
    assert ignoring_all(routers, names) == "mlp.router"
    assert ignoring_all([*routers[:1], names[1]], names) == f"{routers[0]},{names[1]}"


def test_layers_with_one_weight_are_one_matrix():
    model = make("llama")
    first, second = (block.mlp.up_proj for block in model.model.layers)
    second.weight = first.weight
    matrices = target_matrices(model)
    assert "model.layers.0.mlp.up_proj" in matrices
    assert "model.layers.1.mlp.up_proj" not in matrices
    assert sharing_layers(model, matrices) == {"model.layers.0.mlp.up_proj": [second]}
    assert sharing_layers(nn.Sequential(first, second), {"0": first, "1": second}) == {}
