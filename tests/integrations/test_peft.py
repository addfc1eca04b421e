"""Adapters by neurons in the real PEFT, against PEFT's own and the weights themselves."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import copy
from typing import Any

import pytest
import torch

import hcnr
import hosts
from families import make, perturbed
from hcnr.errors import HcnrError
from hcnr.models.directory import DirectorySource
from pairs import config

ours = hosts.load("peft", "peft.lora")
corda_model = hosts.load("peft", "peft.corda").corda_model
pytestmark = pytest.mark.filterwarnings("ignore")  # the tool's own

with hosts.silent():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

IDS = torch.arange(3, 15)[None]
TARGETS = ["q_proj", "down_proj"]


def lora(**options):
    return LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": TARGETS, **options})


def corda(method: Any = "ipm"):
    return lora(init_lora_weights="corda", corda_config=CordaConfig(corda_method=method))


def moments(model):
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, layer in model.named_modules():
        if name.endswith(tuple(TARGETS)):
            x = torch.randn(200, layer.in_features, generator=generator)
            found[name] = x.T @ x / 200
    return found


def trained(model, steps=2):
    """Steps of AdamW with weight decay on every adapter weight."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1
    )
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("method", ["ipm", "kpm"])
def test_corda_is_pefts(tmp_path, method):
    model: Any = make("llama")
    curvature = moments(model)
    exact = model(input_ids=IDS).logits
    theirs = copy.deepcopy(model)
    torch.save(curvature, tmp_path / "covariance.pt")
    options = corda(method)
    assert options.corda_config is not None
    options.corda_config.covariance_file = str(tmp_path / "covariance.pt")
    preprocess_corda(theirs, options)
    theirs = get_peft_model(theirs, options)
    found = corda_model(model, corda(method), curvature)
    assert set(found.hcnr_damping.values()) == {0.01}
    pairs = zip(ours.lora_layers(theirs).items(), ours.lora_layers(found).items(), strict=True)
    for (name, left), (other, right) in pairs:
        assert name == other
        for part in (left, right):
            assert part.lora_A["default"].weight.abs().max() > 0
        torch.testing.assert_close(
            right.get_delta_weight("default"), left.get_delta_weight("default"),
            rtol=1e-3, atol=1e-4,
        )  # fmt: skip
    torch.testing.assert_close(found(input_ids=IDS).logits, exact, rtol=1e-3, atol=1e-3)


def test_a_moment_of_too_few_tokens_is_damped_and_told():
    model: Any = make("llama")
    curvature = moments(model)
    name = next(iter(curvature))
    curvature[name] = -curvature[name] * 0.02 + torch.eye(len(curvature[name]))
    bad = curvature[name].clone()
    bad[0, 1] = bad[1, 0] = 1.05  # indefinite until 0.1 is added
    curvature[name] = bad
    found = corda_model(model, corda(), curvature)
    assert found.hcnr_damping[name] > 0.01
    assert sorted(found.hcnr_damping.values())[0] == 0.01


@pytest.mark.parametrize("axis", ["output", "input"])
def test_held_neurons_stay_base_while_others_train(axis):
    model: Any = make("llama")
    weights = {name: layer.weight.clone() for name, layer in model.named_modules()
               if name.endswith("q_proj")}  # fmt: skip
    adapted = get_peft_model(model, lora())
    masks = {name: torch.arange(weight.shape[0]) % 3 == 0 for name, weight in weights.items()}
    ours.clear_neurons(adapted, masks, axis=axis, hold=True)
    losses = trained(adapted, 3)
    assert losses[-1] < losses[0]
    merged = dict(adapted.merge_and_unload().named_modules())
    for name, weight in weights.items():
        moved = (merged[name].weight != weight).any(1 if axis == "output" else 0)
        assert torch.equal(~moved, masks[name])


def test_clearing_restores_neurons_of_a_trained_adapter():
    adapted = get_peft_model(make("llama"), lora())
    trained(adapted)
    name = "model.layers.1.mlp.down_proj"
    mask = torch.zeros(24, dtype=torch.bool)
    mask[[2, 5]] = True
    ours.clear_neurons(adapted, {name: mask})
    delta = ours.lora_layers(adapted)[name].get_delta_weight("default")
    assert (delta[mask] == 0).all() and (delta[~mask] != 0).any(1).all()


def test_pruning_takes_the_least_important():
    adapted = get_peft_model(make("llama"), lora())
    trained(adapted)
    name = "model.layers.0.self_attn.q_proj"
    scores = {name: torch.tensor([0.0, 5, 1, 1, *range(6, 26)])}
    masks = ours.prune(adapted, scores, 3 / 24)
    assert masks[name].nonzero().flatten().tolist() == [0, 2, 3]
    delta = ours.lora_layers(adapted)[name].get_delta_weight("default")
    assert torch.equal((delta == 0).all(1), masks[name])


def test_a_repair_is_an_adapter_that_can_be_switched_off(pair, statistics):
    settings = config(compensation="sum", device="cpu")
    selection = hcnr.select(statistics["output"], pair["base"], pair["tuned"], settings)
    model = hcnr.restore(
        pair["base"], pair["tuned"], config=settings, statistics=statistics["output"]
    )
    names = selection.selected
    restored = {name: model.get_submodule(name).weight.detach() for name in names}
    with DirectorySource(pair["tuned"]).opened(settings) as tuned:
        before = tuned(input_ids=IDS).logits
        rank = max(int(selection.masks[name].sum()) for name in names)
        adapted, kept = ours.repair_as_adapter(tuned, restored, rank)
        assert kept == pytest.approx(dict.fromkeys(names, 1.0))
        exact = model(input_ids=IDS).logits
        torch.testing.assert_close(adapted(input_ids=IDS).logits, exact, rtol=1e-4, atol=1e-4)
        with adapted.disable_adapter():
            assert torch.equal(adapted(input_ids=IDS).logits, before)
        assert not torch.allclose(before, exact, atol=1e-3)


def test_a_lower_rank_keeps_what_it_says():
    model: Any = make("llama")
    other: Any = perturbed(model)
    name = "model.layers.0.mlp.down_proj"
    restored = {name: other.get_submodule(name).weight.detach()}
    change = restored[name] - model.get_submodule(name).weight.detach()
    adapted, kept = ours.repair_as_adapter(model, restored, 4)
    delta = ours.lora_layers(adapted)[name].get_delta_weight("default")
    lost = float((change - delta).square().sum() / change.square().sum())
    assert kept[name] == pytest.approx(1 - lost, abs=1e-4) and 0.1 < kept[name] < 0.9


def test_bad_input_is_one_sentence():
    model: Any = make("llama")
    curvature = moments(model)
    with pytest.raises(HcnrError, match="init_lora_weights='corda'"):
        corda_model(model, lora(), curvature)
    first = next(iter(curvature))
    with pytest.raises(HcnrError, match=f"the curvature of {first} is missing"):
        corda_model(model, corda(), {})
    with pytest.raises(HcnrError, match=f"{first}.* NaN or infinity"):
        corda_model(model, corda(), {**curvature, first: curvature[first] * float("nan")})
    adapted = get_peft_model(make("llama"), lora())
    with pytest.raises(HcnrError, match="nowhere has no adapter"):
        ours.clear_neurons(adapted, {"nowhere": torch.zeros(1, dtype=torch.bool)})
    with pytest.raises(HcnrError, match=r"expected torch.bool \[24\]"):
        ours.clear_neurons(adapted, {first: torch.zeros(3, dtype=torch.bool)})
    with pytest.raises(HcnrError, match="share is 2"):
        ours.prune(adapted, {}, 2)
    for scores, found in ((torch.full((24,), float("nan")), "NaN"), (torch.ones(24, 2), "shape")):
        with pytest.raises(HcnrError, match=f"the scores of {first} are .*{found}"):
            ours.prune(adapted, {first: scores}, 0.5)
    with pytest.raises(HcnrError, match=f"the mask of {first} .* is list"):
        ours.clear_neurons(adapted, {first: [True] * 24})
    for rank in (0, 1.5):
        with pytest.raises(HcnrError, match=f"rank is {rank}"):
            ours.repair_as_adapter(model, {}, rank)
    with pytest.raises(HcnrError, match="no restored layer"):
        ours.repair_as_adapter(model, {}, 2)
    plain: Any = make("llama")
    broken = {first: plain.get_submodule(first).weight.detach() * float("nan")}
    with pytest.raises(HcnrError, match=f"the restored weight of {first} holds NaN"):
        ours.repair_as_adapter(plain, broken, 2)
    wide = lora(r=99, init_lora_weights="corda", corda_config=CordaConfig())
    with pytest.raises(HcnrError, match="rank 99 of"):
        corda_model(make("llama"), wide, curvature)
    nowhere = lora(
        target_modules=["nowhere"], init_lora_weights="corda", corda_config=CordaConfig()
    )
    with pytest.raises(HcnrError, match="no layer of target_modules"):
        corda_model(make("llama"), nowhere, curvature)
