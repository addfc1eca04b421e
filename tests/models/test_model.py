import pytest
import torch
from transformers import GitConfig, GitForCausalLM

from families import COMMON, make
from hcnr.models.model import eval_mode, transformer_blocks


def test_every_layer_gets_its_own_mode_back():
    model = make("llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("layers", [1, 2])
def test_a_tower_that_is_larger_than_the_text_is_not_the_blocks(layers):
    """GIT's image encoder stands beside its text, whose configuration is the model's."""
    vision = {**COMMON, "hidden_size": 48, "num_hidden_layers": 2, "image_size": 8}
    config = GitConfig(**{**COMMON, "num_hidden_layers": layers}, vision_config=vision)
    with torch.device("meta"):
        model = GitForCausalLM(config)
    assert transformer_blocks(model) == "git.encoder.layer"
