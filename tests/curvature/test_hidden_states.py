import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from families import VOCABULARY, make, tokens
from hcnr.curvature.hidden_states import last_token_states
from hcnr.errors import ModelError
from hcnr.models.targets import transformer_blocks
from padding import padded


def one_by_one(model: PreTrainedModel, data) -> torch.Tensor:
    """Unpadded, through `output_hidden_states`; its last entry is normalised, so left out."""
    rows = []
    for sample in data.samples:
        found = model(input_ids=torch.tensor([sample.input_ids]), output_hidden_states=True)
        rows.append(torch.stack([state[0, -1] for state in found.hidden_states[1:-1]]))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3", "gpt_neox"])
@pytest.mark.parametrize(("budget", "side"), [(26, "right"), (26, "left"), (1000, "right")])
def test_batches_give_what_single_prompts_give(family, budget, side):
    model, data = make(family), tokens(9)
    told = []
    with padded(side):
        found = last_token_states(
            model, data, token_budget=budget, progress=lambda *d: told.append(d)
        )
    assert found.shape == (9, 2, 24)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, :-1], one_by_one(model, data), atol=1e-5, rtol=1e-4)
    assert told[-1] == (9, 9)
    assert (len(told) > 1) == (budget == 26)


def test_the_last_block_is_read_before_the_final_normalisation():
    model, data = make("llama"), tokens(3)
    found = last_token_states(model, data, token_budget=100)[:, -1]
    for state, sample in zip(found, data.samples, strict=True):
        logits = model(input_ids=torch.tensor([sample.input_ids])).logits[0, -1]
        normed = model.model.norm(state)
        torch.testing.assert_close(model.lm_head(normed), logits, atol=1e-5, rtol=1e-4)


def test_the_model_is_left_as_it_was():
    model = make("llama").train()
    last_token_states(model, tokens(3), token_budget=100)
    blocks = model.get_submodule(transformer_blocks(model) or "").children()
    assert not any(block._forward_hooks for block in blocks)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_dropout_stays_off():
    model = make("gpt_neox")
    data = tokens(4)
    expected = last_token_states(model, data, token_budget=100)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert (last_token_states(model.train(), data, token_budget=100) == expected).all()


def test_what_cannot_be_probed_is_refused():
    model = make("llama")
    model.resize_token_embeddings(VOCABULARY - 40)
    with pytest.raises(ModelError, match=f"embedding has {VOCABULARY - 40} rows"):
        last_token_states(model, tokens(3), token_budget=100)
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ModelError, match="no list of transformer blocks"):
        last_token_states(model, tokens(3), token_budget=100)
