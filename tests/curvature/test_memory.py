"""Passes that are begun again with less where memory runs out, and what is loaded before them."""

import pytest
import torch

import oracle
from families import VOCABULARY, make, tokens
from hcnr.curvature import memory, passes
from hcnr.curvature.moments import curvature
from hcnr.curvature.scores import score
from hcnr.errors import ModelError
from hcnr.models.device_memory import move
from hcnr.models.targets import target_matrices

DATA = tokens(9, seed=3)


def scores_of(model, data=DATA, **settings):
    settings = {"axis": "output", "token_budget": 64, **settings}
    return score(model, target_matrices(model), data, **settings)


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


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


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


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_backward_pass_on_a_gpu_loads_that_first(kind, monkeypatch):
    model, order, device = make("llama"), [], torch.device(kind)
    monkeypatch.setattr(passes, "device_of", lambda _: device)
    monkeypatch.setattr(passes, "warm_up", lambda *arguments: order.append(arguments))
    monkeypatch.setattr(passes.Attempt, "_run", lambda *_, **__: order.append("run"))
    passes.Attempt(model, DATA, 64).backward()
    first = [(device, model.dtype, max(DATA.lengths))] if kind == "cuda" else []
    assert order == [*first, "run"]


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
