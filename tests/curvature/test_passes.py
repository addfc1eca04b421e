"""The engine of passes: losses, the model as it was, no logits or gradients beyond what is used."""

import copy
import itertools
from typing import Any

import pytest
import torch
from transformers import modeling_utils

import oracle
from families import FAMILIES, RENAMED, make, tokens
from hcnr.curvature import passes
from hcnr.curvature.moments import curvature
from hcnr.curvature.passes import prepared, sample_losses, takes_masks
from hcnr.curvature.scores import score
from hcnr.data.batches import collate
from hcnr.errors import ModelError
from hcnr.models.targets import target_matrices
from padding import padded

DATA = tokens(9, seed=3)


def scores_of(model, data=DATA, **settings):
    settings = {"axis": "output", "token_budget": 64, **settings}
    return score(model, target_matrices(model), data, **settings)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_losses_equal_single_sample_losses(family):
    model = make(family)
    batch = collate(DATA.samples, range(9), pad_token_id=0, padding_side="left")
    with torch.no_grad():
        found = sample_losses(model, batch)
        exact = [oracle.sample_loss(model, s.input_ids, s.response_start) for s in DATA.samples]
    torch.testing.assert_close(found.double(), torch.stack(exact), rtol=1e-5, atol=1e-6)


def test_the_model_comes_out_as_it_went_in():
    model = make("llama").train()
    model.model.layers[0].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    score(
        model, target_matrices(model), DATA, axis="output", token_budget=64,
        gradient_checkpointing=True,
    )  # fmt: skip
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert not any("forward" in vars(m) for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "guard",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
)
def test_a_callers_gradient_mode_does_not_matter(guard):
    model = make("llama")
    exact = scores_of(model).mean
    with guard():
        found = scores_of(model).mean
    for name in exact:
        assert oracle.relative(found[name], exact[name].double()) <= 1e-6


def test_the_model_comes_out_as_it_went_in_after_a_failure():
    model: Any = make("llama").train()
    block = model.model.layers[1]
    block.forward = block.forward  # as wrappers do that hook an instance
    own, modes = block.forward, [m.training for m in model.modules()]

    def fails(*_: Any) -> None:
        raise ValueError("half-way")

    handle = model.lm_head.register_forward_hook(fails)
    with pytest.raises(ValueError, match="half-way"):
        scores_of(model, gradient_checkpointing=True)
    handle.remove()
    assert block.forward is own
    assert "forward" not in vars(model.model.layers[0])
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dropout_stays_off_under_gradient_checkpointing():
    model = make("gpt_neox")
    exact = scores_of(model).mean
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = scores_of(model, gradient_checkpointing=True).mean
    for name in exact:
        assert oracle.relative(found[name], exact[name].double()) <= 1e-5


def test_no_weight_gradient_is_ever_formed():
    model = make("llama")
    formed = []
    weight = model.model.layers[0].mlp.down_proj.weight
    with prepared(model):
        assert not weight.requires_grad
        batch = collate(DATA.samples, [0, 1], pad_token_id=0)
        sample_losses(model, batch).sum().backward()
        formed = [n for n, p in model.named_parameters() if p.grad is not None]
    assert formed == []


def test_a_loss_that_is_not_finite_names_the_sample():
    model = make("llama")
    model.model.embed_tokens.weight.data[DATA.samples[4].input_ids[0]] = float("inf")
    with pytest.raises(ModelError, match=r"loss of sample \d+ is nan.*float32"):
        scores_of(model)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@on_a_gpu
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_measures_the_same(family, axis):
    model, layers = make(family), target_matrices(make(family))
    exact = oracle.fisher(model, target_matrices(model), DATA, axis)
    there = copy.deepcopy(model).to("cuda")  # pyright: ignore[reportArgumentType]
    for side, recompute in itertools.product(("right", "left"), (False, True)):
        settings = {"axis": axis, "gradient_checkpointing": recompute}
        with padded(side):
            found = scores_of(there, **settings).mean
        for name in layers:
            assert oracle.relative(found[name], exact[name]) <= 1e-4, (name, settings)
    # The other axis's Grams are tested on the CPU; products on a GPU follow another order.
    expected = curvature(model, target_matrices(model), DATA, axis=axis, token_budget=64)
    found = curvature(there, target_matrices(there), DATA, axis=axis, token_budget=64)
    for name, gram in found.items():
        assert oracle.relative(gram.cpu(), expected[name].double()) <= 1e-4, name


MASKED = hasattr(modeling_utils, "slice_logits_to_keep")
"""Whether models of this version of transformers take a mask; those of 5.17 do not."""


class _HeadRows:
    """Counts the rows that a model's head is given."""

    def __init__(self, model):
        self.rows = 0
        self._handle = model.get_output_embeddings().register_forward_pre_hook(self._count)

    def _count(self, module, args):
        self.rows += args[0].numel() // args[0].shape[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", [*FAMILIES, *RENAMED])
def test_the_head_sees_the_rows_that_predict_a_response_and_no_others(family, side, monkeypatch):
    model = make(family)
    batch = collate(DATA.samples, range(9), pad_token_id=0, padding_side=side)
    predicting = int(batch.response_mask[:, 1:].sum())
    assert predicting < batch.response_mask[:, 1:].any(0).sum() * 9
    with torch.no_grad(), _HeadRows(model) as head:
        found = sample_losses(model, batch)
    if MASKED:
        assert head.rows == predicting
    exact = [oracle.sample_loss(model, s.input_ids, s.response_start) for s in DATA.samples]
    torch.testing.assert_close(found.double(), torch.stack(exact), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(passes, "takes_masks", lambda model: False)
    with torch.no_grad(), _HeadRows(model) as head:
        fallback = sample_losses(model, batch)
    assert head.rows > predicting
    torch.testing.assert_close(fallback, found, rtol=1e-5, atol=1e-6)


def test_a_mask_is_given_only_to_what_is_known_to_take_one():
    class Wrapper(torch.nn.Module):
        def forward(self, logits_to_keep):
            return logits_to_keep

    class Inherits(type(make("llama"))):
        pass

    assert takes_masks(make("llama")) == takes_masks(Inherits(make("llama").config)) == MASKED
    assert not takes_masks(Wrapper())


def test_a_model_that_forms_all_logits_is_measured_too():
    model = make("llama")
    own = model.forward

    def forward(input_ids, attention_mask, use_cache):
        return own(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    batch = collate(DATA.samples, range(9), pad_token_id=0)
    with torch.no_grad():
        found = sample_losses(model, batch)
        model.forward = forward
        torch.testing.assert_close(sample_losses(model, batch), found, rtol=1e-5, atol=1e-6)
