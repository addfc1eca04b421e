"""Layers that are not what a tap takes them for: exact, or refused by name before scoring."""

import copy
import dataclasses
import importlib
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaMLP

import hcnr
import oracle
from families import FAMILIES, make, tokens
from hcnr.curvature.scores import score
from hcnr.curvature.selfcheck import check_model
from hcnr.errors import ModelError
from hcnr.models.targets import target_matrices
from pairs import HONESTY, TASK, config, tokenizer

DATA = tokens(6)
SIZES: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
}
HOW: dict[str, Any] = {"axis": "output", "token_budget": 64}


def built(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.25)
    return model.eval()


@pytest.fixture
def falcon():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return built(FalconForCausalLM(FalconConfig(**SIZES, num_attention_heads=4)))


@pytest.fixture
def llama():
    return make("llama")


def check(model, **changes):
    check_model(model, target_matrices(model), DATA, **{**HOW, **changes})


def test_gradients_that_are_rounding_are_no_fault(llama):
    """All tokens alike: what queries and keys get is zero but for rounding, in either batch."""
    alike = tokens(6)
    samples = [dataclasses.replace(one, input_ids=(5,) * len(one)) for one in alike.samples]
    data = dataclasses.replace(alike, samples=tuple(samples))
    check_model(llama, target_matrices(llama), data, **HOW)


def first(model: Any) -> nn.Linear:
    return model.model.layers[0].mlp.gate_proj


def retyped(model, kind):
    """The model with a layer of another class at `first`."""
    first(model).__class__ = kind
    return model


class Tuple(nn.Linear):
    def forward(self, input) -> Any:
        return super().forward(input), None


class Scaled(nn.Linear):
    def forward(self, input):
        return super().forward(2 * input)


class Squashed(nn.Linear):
    def forward(self, input):
        return super().forward(input).tanh()


class Careless(nn.Linear):
    """Changes what it was given after it has read it."""

    def forward(self, input):
        y = super().forward(input)
        input.mul_(1.0)
        return y


class ByKeyword(nn.Linear):
    def __call__(self, x: Any):
        return super().__call__(input=x)


@pytest.mark.parametrize("family", FAMILIES)
def test_ordinary_models_pass(family):
    model = make(family)
    before = copy.deepcopy(model.state_dict())
    for axis in ("output", "input"):
        check(model, axis=axis)
    check(model, gradient_checkpointing=True)
    check(model.bfloat16())
    model.float()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert before.keys() == model.state_dict().keys()


def test_gradients_that_were_there_stay(llama):
    weight = first(llama).weight
    weight.grad = torch.ones_like(weight)
    check(llama)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert llama.model.layers[0].mlp.up_proj.weight.grad is None


def test_what_does_not_fit_is_one_sentence(llama):
    def full(module, args):
        raise torch.OutOfMemoryError("out of memory")

    llama.model.layers[1].register_forward_pre_hook(full)
    with pytest.raises(ModelError, match="does not fit in memory"):
        check(llama)


def test_an_output_that_is_changed_in_place_is_exact(falcon):
    check(falcon)
    names = list(target_matrices(falcon))
    found = score(falcon, target_matrices(falcon), DATA, **HOW).mean
    expected = oracle.fisher(falcon, names, DATA, "output")
    for name in names:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-4, atol=1e-9)


def test_a_layer_called_by_keyword_is_exact(llama):
    before = score(llama, target_matrices(llama), DATA, **HOW).mean
    other = retyped(copy.deepcopy(llama), ByKeyword)
    check(other)
    found = score(other, target_matrices(other), DATA, **HOW).mean
    assert all(torch.equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Tuple, "turns a Tensor into a tuple"),
        (Scaled, r"is no plain y = W x \+ b"),
        (Squashed, "cannot be measured"),
        (Careless, "changed in place|cannot be measured"),
    ],
)
def test_other_layers_are_named(llama, kind, match):
    name = "model.layers.0.mlp.gate_proj"
    with pytest.raises(ModelError, match=rf"{name}.*({match}).*--ignore '{name}'"):
        check(retyped(llama, kind))
    others = target_matrices(llama, ignore=[name])
    if kind in (Scaled, Squashed):
        check_model(llama, others, DATA, **HOW)


def test_a_weight_that_is_used_without_its_layer():
    model = built(MambaForCausalLM(MambaConfig(**SIZES, state_size=4)))
    with pytest.raises(
        ModelError,
        match=r"dt_proj is used without calling its layer.*--ignore "
        "'mixer.dt_proj'",
    ):
        check(model)
    check_model(model, target_matrices(model, ignore=["dt_proj"]), DATA, **HOW)


def test_a_weight_that_is_used_elsewhere_too(llama):
    layer = llama.model.layers[1].mlp
    own = layer.forward
    layer.forward = lambda x: own(x) + x @ layer.up_proj.weight.T @ layer.down_proj.weight.T
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj .*no plain"):
        check(llama)


def test_a_layer_that_takes_no_part(llama):
    first(llama).register_module("extra", nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"gate_proj\.extra took no part"):
        check(llama)


def test_two_layers_with_one_weight(llama):
    """They are one matrix, unless each is asked for by a name of its own."""
    layers = llama.model.layers
    both = [f"model.layers.{i}.mlp.gate_proj" for i in (0, 1)]
    layers[1].mlp.gate_proj.weight = layers[0].mlp.gate_proj.weight
    assert [name for name in target_matrices(llama) if "gate_proj" in name] == both[:1]
    check(llama)
    named = {name: llama.get_submodule(name) for name in both}
    with pytest.raises(
        ModelError,
        match=r"0.mlp.gate_proj and .*gate_proj are one weight.*--ignore 'mlp.gate_proj'$",
    ):
        check_model(llama, named, DATA, **HOW)


def test_one_sentence_names_all_that_must_go(llama):
    """Not one matrix after the other."""
    for layer in llama.model.layers:
        layer.mlp.gate_proj.__class__ = Scaled
        layer.self_attn.q_proj.__class__ = Scaled
    cure = r"it and 3 more of such out with --ignore 'self_attn.q_proj,mlp.gate_proj'$"
    with pytest.raises(ModelError, match=rf"0\.self_attn\.q_proj \(Scaled\) is no plain.*{cure}"):
        check(llama)


class Prefixed(LlamaMLP):
    def forward(self, x):
        return super().forward(torch.cat([torch.ones_like(x[:, :1]), x], 1))[:, 1:]


class TestRows:
    """Layers that handle other rows than the tokens of a batch."""

    @pytest.fixture
    def prefixed(self, llama):
        """A model whose MLPs read a row of their own before those of a sample."""
        for layer in llama.model.layers:
            layer.mlp.__class__ = Prefixed
        return llama

    def test_one_sentence_offers_both_cures(self, prefixed):
        with pytest.raises(
            ModelError,
            match=r"rows while the batch has 2 x .* alone with --token-budget 1, or .*--ignore "
            "'mlp.gate_proj,mlp.up_proj,mlp.down_proj'$",
        ):
            check(prefixed)

    def test_alone_they_are_exact(self, prefixed):
        check(prefixed, token_budget=1)
        names = [name for name in target_matrices(prefixed) if ".mlp." in name]
        layers = {name: prefixed.get_submodule(name) for name in names}
        found = score(prefixed, layers, DATA, axis="output", token_budget=1).mean
        exact = oracle.fisher(prefixed, names, DATA, "output")
        for name in names:
            assert oracle.relative(found[name], exact[name]) <= 1e-5


class TestBatches:
    @pytest.fixture
    def leaking(self, llama):
        """A model whose samples see the mean of their batch."""
        body = llama.model.layers[0]
        body.register_forward_hook(lambda module, args, output: output + output.mean(0, True))
        return llama

    def test_a_model_that_mixes_samples(self, leaking):
        with pytest.raises(ModelError, match=r"two samples differ by .*--token-budget 1"):
            check(leaking)

    def test_one_sample_a_batch_is_not_compared(self, leaking):
        check(leaking, token_budget=1)


@pytest.mark.parametrize("settings", [{}, {"compensation": "spectral"}])
def test_before_scoring(llama, settings, monkeypatch):
    monkeypatch.setattr(importlib.import_module("hcnr.pipeline.run"), "score", None)
    monkeypatch.setattr("hcnr.curvature.spectral_bases.second_moments", None)
    tuned = retyped(make("llama", seed=1), Scaled)
    base = retyped(llama, Scaled)
    with pytest.raises(ModelError, match=r"gate_proj \(Scaled\) is no plain"):
        hcnr.restore(base, tuned, HONESTY, TASK, config=config(**settings), tokenizer=tokenizer())


class TestRoutes:
    """In 16 bits a token between two tied experts may take another one in another batch."""

    def mixture(self, tie: Any) -> Any:
        """A mixture in bfloat16 whose first block breaks the ties of two experts by `tie(rows)`."""
        settings = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            kind = MixtralConfig(
                **settings, intermediate_size=40, num_local_experts=8, num_experts_per_tok=2
            )
            model: Any = built(MixtralForCausalLM(kind)).bfloat16()
            for parameter in model.parameters():
                if parameter.dim() == 3:
                    parameter.data.normal_(0, 0.4)
        model.set_experts_implementation("eager")
        router = model.model.layers[0].mlp.gate
        own = router.forward
        router.weight.data[1] = router.weight.data[0]

        def forward(hidden: torch.Tensor) -> Any:
            before = router.weight.data.clone()
            router.weight.data[1] += tie(hidden.numel() // hidden.shape[-1]) * 0.01 * before[0]
            found = own(hidden)
            router.weight.data.copy_(before)
            return found

        router.forward = forward
        return model

    def test_a_route_that_flips_is_no_fault(self, monkeypatch):
        longest = max(sorted(map(len, DATA.samples))[:2])
        model = self.mixture(lambda rows: 1 if rows > longest else -1)
        check(model)
        # Without following the routes it looks like one.
        monkeypatch.setattr("hcnr.curvature.routes.holds_experts", lambda module: False)
        with pytest.raises(ModelError, match=r"two samples differ by .*--token-budget 1"):
            check(model)

    def test_a_mixture_whose_samples_see_each_other(self):
        model = self.mixture(lambda rows: 0)
        body = model.model.layers[0]
        body.register_forward_hook(lambda module, args, output: output + output.mean(0, True))
        with pytest.raises(ModelError, match=r"(two samples differ|routed to other).*--token-bud"):
            check(model)

    def test_routes_that_depend_on_the_batch(self):
        model = self.mixture(lambda rows: 0)
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(
                lambda module, args, output: (*output[:2], (output[2] + len(args[0])) % 8)
            )
        with pytest.raises(ModelError, match=r"routed to other experts in one batch.*budget 1"):
            check(model)
