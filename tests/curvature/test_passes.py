import copy
import itertools
from typing import Any

import pytest
import torch
from transformers import CTRLConfig, CTRLLMHeadModel, RobertaConfig, RobertaForCausalLM

import oracle
from families import FAMILIES, RENAMED, VOCABULARY, attentions, make, perturbed, tokens
from hcnr.config import RestoreConfig
from hcnr.curvature import memory, passes
from hcnr.curvature.moments import curvature
from hcnr.curvature.passes import prepared, sample_losses, takes_masks
from hcnr.curvature.scores import score
from hcnr.data.batches import collate
from hcnr.errors import ModelError
from hcnr.models.device_memory import move
from hcnr.models.model import target_matrices
from hcnr.repair.selection import candidates
from padding import padded

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


@pytest.mark.parametrize("family", [f for f in FAMILIES if len(attentions(f)) > 1])
def test_attention_implementations_agree(family):
    with padded("left"):
        first, second = (
            scores_of(make(family, attention=attention), token_budget=999).mean
            for attention in attentions(family)
        )
    for name, scores in first.items():
        assert oracle.relative(scores, second[name].double()) <= 1e-5, name


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_losses_equal_single_sample_losses(family):
    model = make(family)
    batch = collate(DATA.samples, range(9), pad_token_id=0, padding_side="left")
    with torch.no_grad():
        found = sample_losses(model, batch)
        exact = [oracle.sample_loss(model, s.input_ids, s.response_start) for s in DATA.samples]
    torch.testing.assert_close(found.double(), torch.stack(exact), rtol=1e-5, atol=1e-6)


def test_halves_are_the_even_and_the_odd_samples():
    model = make("llama")
    found = scores_of(model)
    for half in range(2):
        part = tokens(9, seed=3).samples[half::2]
        exact = oracle.fisher(model, found.mean, type(DATA)(part, DATA.counts, "-"), "output")
        for name, halves in found.halves.items():
            assert halves.shape[0] == 2
            assert oracle.relative(halves[half], exact[name]) <= 1e-5


def test_one_sample_has_no_halves():
    model, data = make("llama"), tokens(1)
    found = scores_of(model, data)
    assert found.halves == {}
    exact = oracle.fisher(model, found.mean, data, "output")
    for name, scores in found.mean.items():
        assert oracle.relative(scores, exact[name]) <= 1e-5


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


class Starved:
    """Stands for a device that only holds so many padded tokens at once."""

    def __init__(self, model, tokens, error=None):
        self.model, self.tokens, self.refused = model, tokens, 0
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")
        self.handle = model.register_forward_pre_hook(self.hook, with_kwargs=True)

    def hook(self, module, args, kwargs):
        if kwargs["input_ids"].numel() > self.tokens:
            self.refused += 1
            raise self.error


NO_MEMORY = [
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `...`"),
    RuntimeError("cuSPARSE: CUSPARSE_STATUS_ALLOC_FAILED"),
    RuntimeError("cudaErrorMemoryAllocation: ..."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_every_way_to_say_out_of_memory_makes_batches_shrink(error):
    model = make("llama")
    starved = Starved(model, 30, error)
    found = scores_of(model, token_budget=500).mean
    assert starved.refused >= 2
    assert found


@pytest.mark.parametrize("text", ["CUDA error: an illegal memory access", "CUBLAS_STATUS_INTERNAL"])
def test_other_errors_of_a_gpu_end_the_run(text):
    model = make("llama")
    starved = Starved(model, 30, RuntimeError(text))
    with pytest.raises(RuntimeError, match=text):
        scores_of(model, token_budget=500)
    assert starved.refused == 1


@pytest.mark.parametrize("measured", ["scores", "curvature"])
def test_batches_shrink_when_memory_runs_out(measured):
    model = make("llama")
    layers = target_matrices(model)

    def run():
        if measured == "scores":
            return score(model, layers, DATA, axis="output", token_budget=500).mean
        return curvature(model, layers, DATA, axis="output", token_budget=500)

    exact = run()
    starved = Starved(model, 30)
    found = run()
    assert starved.refused >= 2
    for name in exact:
        assert oracle.relative(found[name], exact[name].double()) <= 1e-5


def test_a_sample_that_does_not_fit_is_an_error_with_advice():
    model = make("llama")
    Starved(model, 5)
    with pytest.raises(ModelError, match=r"single sample of 12 tokens.*--gradient-checkpointing"):
        scores_of(model)


def test_other_runtime_errors_are_not_taken_for_memory():
    model = make("llama")

    def broken(*_, **__):
        raise RuntimeError("something else")

    model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="something else"):
        scores_of(model)


def test_a_loss_that_is_not_finite_names_the_sample():
    model = make("llama")
    model.model.embed_tokens.weight.data[DATA.samples[4].input_ids[0]] = float("inf")
    with pytest.raises(ModelError, match=r"loss of sample \d+ is nan.*float32"):
        scores_of(model)


def test_bfloat16_scores_select_nearly_the_same_neurons():
    model = make("llama")
    exact = scores_of(model).mean
    found = scores_of(model.bfloat16()).mean
    for name in exact:
        assert oracle.relative(found[name], exact[name].double()) < 0.1


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


@on_a_gpu
def test_recomputing_keeps_one_block_at_a_time():
    """Four times the blocks add their weights and one hidden state each, no more."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def peak(blocks: int) -> int:
        config = LlamaConfig(
            hidden_size=512, intermediate_size=2048, num_hidden_layers=blocks,
            num_attention_heads=8, num_key_value_heads=8, vocab_size=VOCABULARY,
        )  # fmt: skip
        model = LlamaForCausalLM(config).to("cuda")  # pyright: ignore[reportArgumentType]
        data = tokens(16, seed=1, longest=400)
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        scores_of(model, data, token_budget=8192, gradient_checkpointing=True)
        return torch.cuda.max_memory_allocated() - held

    peak(2)  # libraries set up their workspaces
    hidden_state = 4 * 8192 * 512
    assert peak(8) - peak(2) <= 1.5 * 6 * hidden_state


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

    assert takes_masks(make("llama")) and takes_masks(Inherits(make("llama").config))
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


@pytest.mark.parametrize("axis", ["input", "output"])
def test_curvature_in_groups_is_that_of_one_pass_bit_for_bit(axis):
    model = make("llama")
    layers = target_matrices(model)
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    settings = {"axis": axis, "token_budget": 500}
    whole = curvature(model, layers, DATA, **settings)
    once = len(runs)
    grouped = curvature(model, layers, DATA, budget=1, **settings)
    assert len(runs) == once * (1 + model.config.num_hidden_layers)
    assert list(grouped) == list(whole) == list(layers)
    assert all(torch.equal(grouped[name], whole[name]) for name in layers)
    q, k = (grouped[f"model.layers.0.self_attn.{name}_proj"] for name in "qk")
    assert (q is k) == (axis == "input")


def test_curvature_that_leaves_no_room_is_named():
    model = make("llama")
    Starved(model, 5)
    with pytest.raises(ModelError, match=r"beside the model and .* GiB of curvature; use fewer"):
        curvature(model, target_matrices(model), DATA, axis="output", token_budget=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_first_backward_loads_is_loaded_before(dtype, monkeypatch):
    called = []
    for name in ("fisher_output_", "fisher_input_", "gram_"):
        own = getattr(memory, name)
        monkeypatch.setattr(
            memory, name, lambda *a, own=own, name=name, **k: (called.append(name), own(*a, **k))
        )
    memory.warm_up(torch.device("cpu"), dtype, 7)
    assert called == ["fisher_output_", "fisher_input_", "gram_"]


def test_a_model_that_does_not_fit_on_its_device_is_one_sentence(monkeypatch):
    model = make("llama")

    def full(device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB")

    monkeypatch.setattr(model, "to", full)
    with pytest.raises(ModelError, match=r"GiB of weights do not fit on cuda: .*--device cpu"):
        move(model, torch.device("cuda"))
    monkeypatch.setattr(model, "to", lambda device: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        move(model, torch.device("cuda"))


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
