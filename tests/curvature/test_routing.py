"""Experts of a mixture, each measured from the tokens that were routed to it."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import copy
import dataclasses
from collections import defaultdict

import pytest
import torch
from torch import nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import hcnr
import oracle
from families import GROUPED, perturbed, tokens
from hcnr.checkpoint import fingerprint_tensors
from hcnr.curvature.fisher import NeuronFisher
from hcnr.curvature.gradient import mean_gradient
from hcnr.curvature.layouts import RoutedLayout, TokenLayout
from hcnr.curvature.moments import curvature, second_moments
from hcnr.curvature.routing import LEAST_TOKENS, expert_tokens
from hcnr.curvature.scores import score
from hcnr.curvature.selfcheck import check_model
from hcnr.errors import ModelError, StatisticsError
from hcnr.models.experts import layer_of, one_by_one
from hcnr.models.linear import Expert, as_matrix
from hcnr.models.overlay import Overlay
from hcnr.models.source import DirectorySource, ModelSource
from hcnr.models.targets import target_matrices
from pairs import HONESTY, TASK, bits, config, tokenizer

MIXTURES = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=4)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **GROUPED,
            head_dim=6,
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=20,
            mlp_only_layers=[0],
        )
    ),
    # Transposed, interleaved, with biases and a gate of its own.
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(**GROUPED, head_dim=6, num_local_experts=4, num_experts_per_tok=2)
    ),
}


def make(family: str, *, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MIXTURES[family]()
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.25) if parameter.dim() > 1 else None
        for name, parameter in model.named_parameters():
            if name.endswith(("gate.weight", "router.weight")):
                parameter.data.mul_(4)  # uneven routes
    model.set_experts_implementation("eager")
    return model.eval()


@pytest.fixture(params=MIXTURES)
def mixture(request):
    return make(request.param).double()


def matrices_of(model: nn.Module) -> dict[str, nn.Module]:
    found = target_matrices(model, ("experts.*",))
    assert all(isinstance(layer, Expert) for layer in found.values())
    return dict(found)


def slice_of(model: nn.Module, name: str, whole: torch.Tensor) -> torch.Tensor:
    return as_matrix(layer_of(model, name), whole[int(name.rpartition(".")[2])])


def sample_gradients(model, data, matrices):
    """Weight gradients of every sample alone, by autograd through transformers' own loop."""
    owners = {name.rpartition(".")[0] for name in matrices}
    for sample in data.samples:
        model.zero_grad()
        ids = torch.tensor([sample.input_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        losses = -logits.gather(1, ids[0, 1:, None])[sample.response_start - 1 :]
        losses.mean().backward()
        grads = {name: model.get_parameter(name).grad for name in owners}
        yield {
            name: slice_of(model, name, grads[name.rpartition(".")[0]]).clone() for name in matrices
        }


def expected_scores(model, data, matrices, axis):
    total = defaultdict(float)
    for gradients in sample_gradients(model, data, matrices):
        for name, gradient in gradients.items():
            total[name] = total[name] + gradient.square().sum(1 if axis == "output" else 0)
    return {name: total[name] / len(data) for name in matrices}


@pytest.mark.parametrize("axis", ["output", "input"])
def test_scores_are_those_of_single_samples(mixture, axis):
    data, matrices = tokens(4, longest=7), matrices_of(mixture)
    expected = expected_scores(mixture, data, matrices, axis)
    mixture.zero_grad()
    before = bits(mixture)
    for budget in (1, 40):
        found = score(mixture, matrices, data, axis=axis, token_budget=budget).mean
        for name in matrices:
            assert torch.allclose(found[name].double(), expected[name], rtol=2e-5, atol=1e-12), name
    assert bits(mixture) == before
    assert all("forward" not in vars(module) for module in mixture.modules())


def test_gradient_checkpointing_changes_nothing(mixture):
    data, matrices = tokens(3, longest=7), matrices_of(mixture)
    plain, again = (
        score(mixture, matrices, data, axis="output", token_budget=40, gradient_checkpointing=on)
        for on in (False, True)
    )
    for name in matrices:
        assert torch.allclose(plain.mean[name], again.mean[name], rtol=1e-6), name


class Watched:
    """What each expert reads and the gradient of what it writes, by hand, one sample at a time."""

    def __init__(self, model, data):
        self.reads, self.writes = defaultdict(list), defaultdict(list)
        self.pending = []
        owners = {
            name: module for name, module in model.named_modules() if hasattr(module, "has_gate")
        }
        for name, module in owners.items():
            module.forward = self.forward_of(name, module)
        for sample in data.samples:
            ids = torch.tensor([sample.input_ids])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            losses = -logits.gather(1, ids[0, 1:, None])[sample.response_start - 1 :]
            losses.mean().backward()
            for name, written in self.pending:
                self.writes[name].append(written.grad[None])
            self.pending.clear()
        for module in owners.values():
            del module.forward

    def forward_of(self, name, module):
        def linear(kind, index, x):
            weight, bias = getattr(module, kind)[index], getattr(module, f"{kind}_bias", None)
            y = x @ weight if module.is_transposed else weight @ x
            y = y if bias is None else y + bias[index]
            y.retain_grad()
            self.reads[f"{name}.{kind}.{index}"].append(x.detach()[None])
            self.pending.append((f"{name}.{kind}.{index}", y))
            return y

        def forward(hidden, routes, shares):
            rows = []
            for x, own, weights in zip(hidden, routes.tolist(), shares, strict=True):
                parts = [
                    w * linear("down_proj", e, module._apply_gate(linear("gate_up_proj", e, x)))
                    for e, w in zip(own, weights, strict=True)
                ]
                rows.append(sum(parts))
            return torch.stack(rows)

        return forward

    def moment(self, rows, name):
        stacked = torch.cat(rows[name])
        return stacked.T @ stacked / len(stacked)


def test_curvature_is_of_the_experts_own_tokens(mixture):
    data = tokens(4, longest=7)
    watched = Watched(mixture, data)
    matrices = {name: one for name, one in matrices_of(mixture).items() if name in watched.reads}
    assert len(matrices) >= 4
    mixture.zero_grad()
    found = second_moments(mixture, matrices, data, token_budget=40)
    along = {
        a: curvature(mixture, matrices, data, axis=a, token_budget=40) for a in ("input", "output")
    }
    counted = expert_tokens(mixture, matrices, data, token_budget=40)
    for name, one in found.items():
        assert one.tokens == counted[name] == len(watched.reads[name])
        reads, writes = watched.moment(watched.reads, name), watched.moment(watched.writes, name)
        for mine, expected in (
            (one.inputs, reads), (along["input"][name], reads),
            (one.gradients, writes), (along["output"][name], writes),
        ):  # fmt: skip
            error = (mine.double() - expected).norm() / expected.norm()
            assert error < 1e-5, name


def test_one_by_one_is_what_transformers_computes(mixture):
    ids = torch.arange(3, 15)[None]
    own = mixture(input_ids=ids, use_cache=False).logits
    with one_by_one(matrices_of(mixture).values()):
        mine = mixture(input_ids=ids, use_cache=False).logits
    assert torch.allclose(own, mine, rtol=1e-10)


def test_the_check_finds_experts_that_compute_something_else():
    model = make("mixtral")
    data = tokens(4)
    settings = {"axis": "output", "token_budget": 64}
    check_model(model, matrices_of(model), data, **settings)
    kind = type(model.model.layers[0].mlp.experts)
    before = kind.forward
    try:
        kind.forward = lambda *args, **named: 2 * before(*args, **named)
        with pytest.raises(ModelError, match=r"experts.*one by one.*--ignore 'experts\.\*'"):
            check_model(model, matrices_of(model), data, **settings)
    finally:
        kind.forward = before


def test_experts_whose_tensor_another_mixture_holds_are_refused():
    model = make("mixtral")
    first, second = (layer.mlp.experts for layer in model.model.layers)
    second.down_proj = first.down_proj
    matrices = {n: m for n, m in matrices_of(model).items() if ".layers.0." in n}
    with pytest.raises(ModelError, match=r"experts\.down_proj\.0 is that of another mixture too"):
        check_model(model, matrices, tokens(4), axis="output", token_budget=64)


class TestRoutedLayout:
    MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])

    def test_real_rows_by_sample(self):
        routed = RoutedLayout(TokenLayout(self.MASK), torch.tensor([0, 2, 3, 6, 9]), 12, "e")
        assert routed.cu_seqlens.tolist() == [0, 2, 2, 3]
        assert (routed.tokens, routed.max_seqlen, routed.samples) == (3, 2, 3)
        rows = routed.rows(torch.arange(5.0)[:, None], "e")
        assert rows.flatten().tolist() == [1, 2, 4]

    def test_no_row_at_all(self):
        routed = RoutedLayout(TokenLayout(self.MASK), torch.tensor([], dtype=torch.long), 12, "e")
        assert (routed.tokens, routed.cu_seqlens.tolist()) == (0, [0, 0, 0, 0])

    def test_another_number_of_rows_is_refused(self):
        with pytest.raises(ModelError, match=r"e handles 13 rows.*3 x 4 tokens"):
            RoutedLayout(TokenLayout(self.MASK), torch.tensor([1]), 13, "e")


def test_without_a_mask_samples_are_the_leading_dimension():
    model = make("mixtral")
    matrices = matrices_of(model)
    ids = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(1))
    scores = []
    for keywords in ({}, {"attention_mask": torch.ones_like(ids)}):
        with NeuronFisher(model, matrices) as fisher:
            logits = model(input_ids=ids, use_cache=False, **keywords).logits
            logits.log_softmax(-1)[..., 0].mean(1).sum().backward()
        scores.append(fisher.scores)
    for name in matrices:
        assert torch.allclose(scores[0][name], scores[1][name], rtol=1e-5)


def test_an_overlay_puts_one_expert_and_takes_it_back():
    model = make("gpt_oss")
    before = bits(model)
    name = "model.layers.1.mlp.experts.gate_up_proj.2"
    with Overlay(model) as overlay:
        own = overlay.original_matrix(name)
        assert own.shape == (80, 24)
        overlay.put_matrix(name, own + 1)
        changed = model.model.layers[1].mlp.experts.gate_up_proj
        assert torch.equal(changed[2].T, own + 1)
        assert torch.equal(overlay.original_matrix(name), own)
        assert sum(not torch.equal(changed[e], own.T) for e in range(4)) >= 1
    assert bits(model) == before


@pytest.mark.parametrize("kind", ["none", "sum", "balanced"])
def test_restored_experts(kind):
    """`none` over everything is base on every matrix; others change what was selected alone."""
    base = make("mixtral")
    tuned = perturbed(base)
    ratios = {"cross_weight_ratio": 1.0, "in_weight_ratio": 1.0} if kind == "none" else {}
    model = hcnr.restore(base, tuned, HONESTY, TASK, tokenizer=tokenizer(),
                         config=config(compensation=kind, **ratios))  # fmt: skip
    report = model.hcnr_report
    selected = {matrix["name"] for matrix in report["matrices"]}
    assert any("experts" in name for name in selected)
    (few,) = [m for m in report["warnings"] if "tokens of the honesty or the task data" in m]
    assert f"fewer than {LEAST_TOKENS}" in few
    for name in target_matrices(base):
        mine, theirs, honest = (layer_of(m, name).weight for m in (model, tuned, base))
        assert torch.equal(mine, theirs) == (name not in selected), name
        if kind == "none" and name in selected:
            assert torch.equal(mine, honest), name


def test_mean_gradients_of_experts_are_those_of_autograd(mixture):
    data, matrices = tokens(5, longest=7), matrices_of(mixture)
    mixture.zero_grad()
    exact = copy.deepcopy(mixture).double()
    for sample in data.samples:
        oracle.sample_loss(exact, sample.input_ids, sample.response_start).backward()
    found = mean_gradient(mixture, matrices, data, token_budget=40).weights
    for name, layer in matrices.items():
        place, _, index = name.rpartition(".")
        gradient = exact.get_parameter(place).grad[int(index)] / len(data)
        assert oracle.relative(found[name], as_matrix(layer, gradient)) <= 1e-5


@pytest.mark.parametrize("kind", ["spectral", "natural", "spectral+natural"])
def test_whole_experts_are_restored_and_the_walk_goes_down(kind):
    base = make("mixtral")
    tuned = perturbed(base)
    settings = config(compensation=kind, cross_weight_ratio=1.0, task_weight=1.0, steps=2,
                      step_size=0.02, targets=("*.experts.*",))  # fmt: skip
    model = hcnr.restore(base, tuned, HONESTY * 4, TASK * 4, tokenizer=tokenizer(), config=settings)
    report = model.hcnr_report
    selected = {matrix["name"] for matrix in report["matrices"]}
    assert len(selected) > 4 and all(".experts." in name for name in selected)
    for name in target_matrices(base):
        mine, theirs = (layer_of(m, name).weight for m in (model, tuned))
        assert torch.equal(mine, theirs) == (name not in selected), name
    told = report["two_sided"]
    if kind == "natural":
        first, *_ = told["steps"]
        assert len(told["steps"]) == 2 and told["honesty_loss"] < first["honesty_loss"]


def test_statistics_of_a_file_leave_the_same_experts(tmp_path):
    base = make("mixtral")
    tuned = perturbed(base)
    settings = config(compensation="joint")
    statistics = hcnr.measure(base, tuned, HONESTY, TASK, settings, tokenizer=tokenizer())
    statistics.save(tmp_path / "s")
    assert statistics.left
    again = hcnr.restore(base, tuned, config=settings, statistics=tmp_path / "s")
    at_once = hcnr.restore(base, tuned, HONESTY, TASK, config=settings, tokenizer=tokenizer())
    assert bits(again) == bits(at_once)
    assert not set(hcnr.select(statistics, base, tuned, settings).selected) & set(statistics.left)


@pytest.mark.parametrize("family", MIXTURES)
def test_pairs_that_differ_in_experts_or_norms_alone_have_fingerprints_of_their_own(
    family, tmp_path
):
    base = make(family)
    prints = [ModelSource(base).fingerprint()]
    for part in ("experts.down_proj", "norm.weight"):
        other = copy.deepcopy(base)
        for name, parameter in other.named_parameters():
            if name.endswith(part):
                parameter.data[-1] += 1
        prints.append(ModelSource(other).fingerprint())
        other.save_pretrained(tmp_path / part)
        assert DirectorySource(tmp_path / part).fingerprint() == prints[-1]
    assert len(set(prints)) == 3


def test_statistics_of_earlier_versions_are_known_by_their_fingerprints():
    base = make("mixtral")
    tuned = perturbed(base)
    settings = config(compensation="joint")
    statistics = hcnr.measure(base, tuned, HONESTY, TASK, settings, tokenizer=tokenizer())
    earlier = {
        role: fingerprint_tensors({n: p for n, p in model.named_parameters() if p.dim() == 2})
        for role, model in (("base", base), ("tuned", tuned))
    }
    assert earlier != statistics.fingerprints
    found = [
        bits(hcnr.restore(base, tuned, config=settings, statistics=one))
        for one in (statistics, dataclasses.replace(statistics, fingerprints=earlier))
    ]
    assert found[0] == found[1]
    swapped = dict(zip(earlier, reversed(list(earlier.values())), strict=True))
    for prints, match in ((swapped, "swapped"), ({**earlier, "tuned": "0" * 16}, "another tuned")):
        other = dataclasses.replace(statistics, fingerprints=prints)
        with pytest.raises(StatisticsError, match=match):
            hcnr.restore(base, tuned, config=settings, statistics=other)
