"""Second moments of both axes and mean gradients, against float64 loops over single samples."""

import copy
import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import oracle
from families import FAMILIES, make, tokens
from hcnr.curvature.gradient import mean_gradient
from hcnr.curvature.moments import Moments, curvature, second_moments
from hcnr.curvature.passes import mean_loss, sample_losses
from hcnr.curvature.sums import Sums
from hcnr.curvature.sums import measured as sums_of
from hcnr.errors import ModelError
from hcnr.models.targets import target_matrices
from hcnr_kernels import BlockDiagonal, RankedGram
from padding import padded
from uses import DATA, MODELS, Unheard, changing, measured


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_and_gradients_equal_the_float64_loop(family):
    """Whatever the batch size, padding side and recomputation."""
    model = make(family)
    layers = target_matrices(model)
    moments = {
        axis: oracle.second_moment(model, layers, DATA, axis) for axis in ("input", "output")
    }
    loss, gradients = oracle.mean_gradient(model, layers, DATA)
    for size, side, recompute in itertools.product((1, 4), ("right", "left"), (False, True)):
        settings = {
            "token_budget": max(DATA.lengths) * size,
            "gradient_checkpointing": recompute,
        }
        with padded(side):
            found = second_moments(model, layers, DATA, **settings)
            mean = mean_gradient(model, layers, DATA, **settings)
        assert list(found) == list(mean.weights) == list(layers)
        assert mean.loss == pytest.approx(loss, rel=1e-5)
        for name, one in found.items():
            assert one.tokens == sum(DATA.lengths)
            inputs, outputs = one.dense()
            assert inputs is one.inputs and outputs is one.gradients
            assert inputs.dtype == outputs.dtype == mean.weights[name].dtype == torch.float32
            assert oracle.relative(inputs, moments["input"][name]) <= 1e-5
            assert oracle.relative(outputs, moments["output"][name]) <= 1e-5
            assert oracle.relative(mean.weights[name], gradients[name]) <= 1e-5
        assert not any(p.grad is not None or not p.requires_grad for p in model.parameters())
    assert mean_loss(model, DATA, token_budget=40) == pytest.approx(loss, rel=1e-5)


def test_what_reads_one_tensor_shares_one_gram():
    layers = target_matrices(model := make("llama"))
    found = second_moments(model, layers, DATA, token_budget=64)
    block = "model.layers.0."
    q, k, o = (found[f"{block}self_attn.{name}_proj"] for name in "qko")
    gate, up = (found[f"{block}mlp.{name}_proj"] for name in ("gate", "up"))
    assert q.inputs is k.inputs and gate.inputs is up.inputs
    assert q.inputs is not o.inputs and q.inputs is not gate.inputs
    assert q.leader == k.leader != o.leader


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_several_uses_are_one_sum(name, recompute):
    """What leads in one use, or in one batch, may share nothing in the next."""
    model = MODELS[name]()
    layers = target_matrices(model, ["mlp.*"])
    inputs, outputs = several_uses(model, layers)
    found = measured(name, gradient_checkpointing=recompute)
    for matrix in layers:
        for axis, exact in (("input", inputs), ("output", outputs)):
            scores = oracle.fisher(model, layers, DATA, axis)
            assert oracle.relative(found[f"{matrix} {axis}"], exact[matrix]) <= 1e-5
            assert oracle.relative(found[f"{matrix} scores {axis}"], scores[matrix]) <= 1e-5
        assert oracle.relative(found[f"{matrix} inputs"], inputs[matrix]) <= 1e-5
        assert oracle.relative(found[f"{matrix} gradients"], outputs[matrix]) <= 1e-5


def test_batches_of_several_samples_sum_several_uses_too():
    model = MODELS["revisiting"]()
    layers = target_matrices(model, ["mlp.*"])
    inputs, outputs = several_uses(model, layers)
    for name, one in second_moments(model, layers, DATA, token_budget=64).items():
        for gram, exact in zip(one.dense(), (inputs, outputs), strict=True):
            assert oracle.relative(gram, exact[name]) <= 1e-5


def test_what_another_matrix_leads_is_whole_where_that_one_gets_no_gradient():
    model = changing(Unheard)
    layers = target_matrices(model, ["mlp.up_proj", "mlp.gate_proj"])
    plain = make("llama")
    exact = second_moments(plain, target_matrices(plain, ["mlp.*"]), DATA, token_budget=1)
    found = second_moments(model, layers, DATA, token_budget=1)
    name = "model.layers.0.mlp.up_proj"
    torch.testing.assert_close(found[name].inputs, exact[name].inputs)
    assert found[name].tokens == sum(DATA.lengths) > found[name.replace("up_", "gate_")].tokens


def test_what_shares_an_input_in_another_process_alone_is_measured_apart(monkeypatch):
    asked = []

    def measure(attempt, apart):
        asked.append(set(apart))
        assert len(asked) < 5
        found = Sums.empty()
        for name in ("q", "k"):
            found.note(name, ("inputs", name), 5)
            found.tokens["inputs", name] += 5
        return found

    def theirs(name, values):
        return {**values, "k": ("inputs", "q")} if "k" not in asked[-1] else values

    def told(name, value):
        """Another process has met a matrix that is used several times."""
        return [value, (value[0] | {"v"}, frozenset())]

    monkeypatch.setattr("hcnr.curvature.sums.ranks.merged", theirs)
    monkeypatch.setattr("hcnr.curvature.sums.ranks.gathered", told)
    passes: Any = SimpleNamespace(run=lambda run, held: run(None))
    found = sums_of(passes, measure)
    assert asked == [set(), {"k", "v"}] and found.sources["k"] == ("inputs", "k")


def several_uses(model, layers):
    """Second moments over the rows of all uses, by float64 passes of single samples."""
    exact = copy.deepcopy(model).double().eval()
    weights = {id(exact.get_parameter(f"{name}.weight")): name for name in layers}
    seen = []

    def keep(name):
        def hook(module, args, output):
            output.retain_grad()
            seen.append((name, args[0], output))

        return hook

    for module in exact.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in weights:
            module.register_forward_hook(keep(weights[id(module.weight)]))
    totals = {name: [0.0, 0.0, 0] for name in layers}
    for sample in DATA.samples:
        seen.clear()
        oracle.sample_loss(exact, sample.input_ids, sample.response_start).backward()
        for name, x, y in seen:
            total = totals[name]
            total[0] = total[0] + x[0].detach().T @ x[0].detach()
            total[1] = total[1] + y.grad[0].T @ y.grad[0]
            total[2] += x.shape[1]
    assert {name: total[2] for name, total in totals.items()} != dict.fromkeys(layers, 0)
    return tuple({name: t[i] / t[2] for name, t in totals.items()} for i in (0, 1))


def test_blocks_are_those_of_the_whole():
    layers = target_matrices(model := make("llama"))

    def measured(size: int | None) -> dict[str, Moments]:
        return second_moments(model, layers, DATA, token_budget=64, block_size=size)

    whole, found, one = measured(None), measured(7), measured(10_000)
    for name, moments in found.items():
        assert moments.inputs is found[moments.leader].inputs
        for gram, mine, want in zip(moments[:2], moments.dense(), whole[name].dense(), strict=True):
            assert isinstance(gram, BlockDiagonal) and gram.block_size == 7
            assert gram.width == len(want)
            assert oracle.relative(mine, BlockDiagonal.cut(want, 7).dense()) <= 1e-5
    for name in layers:
        assert all(map(torch.equal, one[name].dense(), whole[name].dense()))


def test_few_tokens_bring_their_rank():
    layers = target_matrices(model := make("llama"))
    few = tokens(1, seed=1)
    for found in second_moments(model, layers, few, token_budget=64).values():
        for gram, pair in zip(found.dense(), found.pair, strict=True):
            assert isinstance(pair, RankedGram) == (gram.shape[0] > sum(few.lengths))
            if isinstance(pair, RankedGram):
                assert pair.rank == sum(few.lengths) and pair.matrix is gram


def test_nothing_is_measured_of_nothing():
    assert second_moments(make("llama"), {}, DATA, token_budget=64) == {}


@pytest.mark.parametrize("measure", [second_moments, mean_gradient])
def test_a_matrix_outside_the_forward_pass_is_named(measure):
    model = make("llama")
    stray = {"stray": torch.nn.Linear(4, 4)}
    with pytest.raises(ModelError, match="stray took no part"):
        measure(model, {**target_matrices(model), **stray}, DATA, token_budget=64)


@pytest.mark.parametrize("measure", [second_moments, mean_gradient])
def test_memory_that_runs_out_starts_the_pass_over(measure, monkeypatch):
    """Nothing is counted twice."""
    layers = target_matrices(model := make("llama"))
    wanted = measure(model, layers, DATA, token_budget=64)
    calls = []

    def short(model, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample_losses(model, batch)

    monkeypatch.setattr(sys.modules["hcnr.curvature.passes"], "sample_losses", short)
    found = measure(model, layers, DATA, token_budget=64)
    assert len(calls) >= 3
    for one, other in zip(_tensors(found), _tensors(wanted), strict=True):
        torch.testing.assert_close(one, other)


def _tensors(found):
    if isinstance(found, dict):
        return [tensor for moments in found.values() for tensor in moments[:2]]
    return list(found.weights.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox"])
def test_curvature_equals_the_float64_loop(family, axis, checkpointing):
    model = make(family)
    layers = target_matrices(model)
    exact = oracle.second_moment(model, layers, DATA, axis)
    found = curvature(
        model, layers, DATA, axis=axis, token_budget=40, gradient_checkpointing=checkpointing
    )
    assert list(found) == list(layers)
    for name, hessian in found.items():
        assert torch.equal(hessian, hessian.T)
        assert oracle.relative(hessian, exact[name]) <= 1e-5, name


def test_matrices_that_read_one_tensor_share_one_curvature():
    model = make("llama")
    layers = target_matrices(model)
    found = curvature(model, layers, DATA, axis="input", token_budget=40)
    block = "model.layers.1."
    same = [found[block + f"self_attn.{n}_proj"] for n in "qkv"]
    assert same[0] is same[1] is same[2]
    assert found[block + "mlp.gate_proj"] is found[block + "mlp.up_proj"]
    assert found[block + "self_attn.o_proj"] is not same[0]
    del layers[block + "self_attn.q_proj"]
    fewer = curvature(model, layers, DATA, axis="input", token_budget=40)
    torch.testing.assert_close(fewer[block + "self_attn.k_proj"], same[0])
