"""Fisher scores of data sets, against float64 loops over single samples."""

import itertools
from typing import Any

import pytest
import torch
from transformers import CTRLConfig, CTRLLMHeadModel, RobertaConfig, RobertaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

import oracle
from families import FAMILIES, attentions, make, perturbed, tokens
from hcnr.config import RestoreConfig
from hcnr.curvature.scores import score
from hcnr.data.batches import part_of, plan_batches
from hcnr.data.tokens import TokenizedSet
from hcnr.models.targets import target_matrices
from hcnr.repair.selection import candidates
from padding import padded
from uses import revisiting

DATA = tokens(9, seed=3)
TASK = tokens(9, seed=4)


def scores_of(model, data=DATA, **settings):
    settings = {"axis": "output", "token_budget": 64, **settings}
    return score(model, target_matrices(model), data, **settings)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_selection_equal_the_float64_loop(family, axis):
    """Whatever the batch size, padding side, attention and recomputation."""
    model, other = make(family), perturbed(make(family), scale=0.3)
    layers = target_matrices(model)
    exact = oracle.fisher(model, layers, DATA, axis)
    exact_task = oracle.fisher(other, layers, TASK, axis)
    config = RestoreConfig(axis=axis)
    wanted = {name: candidates(exact[name], exact_task[name], config) for name in layers}
    for size, side, recompute in itertools.product((1, 3, 32), ("right", "left"), (False, True)):
        settings = {
            "axis": axis,
            "token_budget": max(DATA.lengths) * size,
            "gradient_checkpointing": recompute,
        }
        with padded(side):
            found = scores_of(model, **settings).mean
            task = scores_of(other, TASK, **settings).mean
        assert list(found) == list(layers)
        for name, scores in found.items():
            assert scores.dtype == torch.float32
            assert oracle.relative(scores, exact[name]) <= 1e-5, (name, side, settings)
            mask = candidates(scores, task[name], config)
            assert torch.equal(mask, wanted[name]), (name, side, settings)


class Odd(LlamaMLP):
    """Nothing where a sample is of even length."""

    def forward(self, x):
        return super().forward(x) if x.shape[1] % 2 else torch.zeros_like(x)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_samples_that_reach_no_matrix_count_as_zeros(axis):
    """As those that are routed to other experts, where no other matrix is chosen."""
    model = make("llama")
    model.model.layers[0].mlp.__class__ = Odd
    odd = [i for i, length in enumerate(DATA.lengths) if length % 2]
    assert 0 < len(odd) < len(DATA)
    layers = target_matrices(model, ["layers.0.mlp.*"])
    found = score(model, layers, DATA, axis=axis, token_budget=1)
    chosen = TokenizedSet(tuple(DATA.samples[i] for i in odd), DATA.counts, DATA.sha256)
    exact = oracle.fisher(model, layers, chosen, axis)
    for name, scores in found.mean.items():
        assert oracle.relative(scores, exact[name] * len(odd) / len(DATA)) <= 1e-5


@pytest.mark.parametrize("family", [f for f in FAMILIES if len(attentions(f)) > 1])
def test_attention_implementations_agree(family):
    with padded("left"):
        first, second = (
            scores_of(make(family, attention=attention), token_budget=999).mean
            for attention in attentions(family)
        )
    for name, scores in first.items():
        assert oracle.relative(scores, second[name].double()) <= 1e-5, name


def halved(samples):
    parts = [part_of(i, 2) for i in range(len(samples))]
    return [tuple(s for s, p in zip(samples, parts, strict=True) if p == half) for half in (0, 1)]


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("axis", ["output", "input"])
def test_halves_are_those_of_the_samples(axis, side, gpu, monkeypatch):
    """Also where the Grams of both halves are formed at once, as a GPU does."""
    if gpu:
        monkeypatch.setattr("hcnr.curvature.fisher.fused", lambda own: True)
    model = make("llama")
    layers = target_matrices(model)
    exact = []
    for half in range(2):
        part = halved(tokens(9, seed=3).samples)[half]
        exact.append(oracle.fisher(model, layers, type(DATA)(part, DATA.counts, "-"), axis))
    for budget in (1, 64, 999):
        with padded(side):
            found = scores_of(model, axis=axis, token_budget=budget)
        for name, halves in found.halves.items():
            assert halves.shape[0] == 2
            for half in range(2):
                assert oracle.relative(halves[half], exact[half][name]) <= 1e-5


@pytest.mark.parametrize("axis", ["output", "input"])
def test_planes_give_the_scores_of_bfloat16(axis, monkeypatch):
    model = make("llama").bfloat16()
    plain = scores_of(model, axis=axis)
    monkeypatch.setattr("hcnr.curvature.fisher.fused", lambda own: True)
    for name, scores in scores_of(model, axis=axis).mean.items():
        assert oracle.relative(scores, plain.mean[name].double()) <= 1e-5


def test_both_halves_come_from_one_pass():
    model, calls, told = make("llama"), [], []
    model.register_forward_hook(lambda *_: calls.append(0))
    budget = 3 * max(DATA.lengths)
    scores_of(model, token_budget=budget, progress=lambda *done: told.append(done))
    assert len(calls) == len(plan_batches(DATA.lengths, budget))
    assert told[-1] == (len(DATA), len(DATA))
    assert len(told) == len(calls)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_halves_of_matrices_that_are_used_several_times(axis):
    model = revisiting()
    layers = target_matrices(model)
    found = scores_of(model, axis=axis)
    for half in range(2):
        part = type(DATA)(halved(DATA.samples)[half], DATA.counts, "-")
        alone = score(model, layers, part, axis=axis, token_budget=1).mean
        for name, scores in alone.items():
            assert oracle.relative(found.halves[name][half], scores.double()) <= 1e-5


def test_samples_that_take_turns_are_in_both_halves():
    for period in (2, 3, 4, 5, 8):
        for turn in range(period):
            own = [part_of(i, 2) for i in range(turn, 128, period)]
            assert 0.3 <= own.count(0) / len(own) <= 0.7, (period, turn)
    for count in range(2, 130):
        assert abs(2 * sum(part_of(i, 2) for i in range(count)) - count) <= 1
    assert {part_of(i, 1) for i in range(9)} == {0}


def test_one_sample_has_no_halves():
    model, data = make("llama"), tokens(1)
    found = scores_of(model, data)
    assert found.halves == {}
    exact = oracle.fisher(model, found.mean, data, "output")
    for name, scores in found.mean.items():
        assert oracle.relative(scores, exact[name]) <= 1e-5


def test_bfloat16_scores_select_nearly_the_same_neurons():
    model = make("llama")
    exact = scores_of(model).mean
    found = scores_of(model.bfloat16()).mean
    for name in exact:
        assert oracle.relative(found[name], exact[name].double()) < 0.1


@pytest.mark.parametrize("kind", ["roberta", "ctrl"])
def test_models_that_count_positions_or_scale_embeddings_their_own_way(kind):
    """RoBERTa's positions begin behind its padding's; CTRL scales embeddings in place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = (
            RobertaForCausalLM(
                RobertaConfig(
                    vocab_size=67, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                    intermediate_size=40, max_position_embeddings=40, type_vocab_size=1,
                    pad_token_id=0, is_decoder=True, initializer_range=0.2,
                )
            )
            if kind == "roberta"
            else CTRLLMHeadModel(
                CTRLConfig(vocab_size=67, n_embd=24, n_layer=2, n_head=4, dff=40, n_positions=40)
            )
        )  # fmt: skip
    model.eval()
    data = tokens(6)
    matrices = target_matrices(model)
    expected = oracle.fisher(model, matrices, data, "output")
    for budget in (1, 64):
        found = score(model, matrices, data, axis="output", token_budget=budget).mean
        for name in matrices:
            torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-3, atol=1e-9)
