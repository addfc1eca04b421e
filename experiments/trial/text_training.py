"""Training of a text world's two models, by the token rule that the tool measures by."""

from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.trial.text_recipe import TextRecipe
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo.real.training import Schedule, train
from hcnr.demo.training import Progress, draw_model
from hcnr.errors import ConfigError

LONGEST = 256
"""Positions of the models; longer samples would lose the left of their prompt."""


def training_device(recipe: TextRecipe) -> torch.device:
    """Where a recipe is trained: small ones on the CPU, whose sums repeat.

    Raises:
        ConfigError: The recipe needs a GPU and there is none.
    """
    if not recipe.needs_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"the text recipe of width {recipe.hidden} needs a CUDA device to be trained, found "
            "none; use the default recipe or a machine with a GPU"
        )
    return torch.device("cuda")


def new_text_model(recipe: TextRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the recipe's size, its weights drawn from the recipe's seed."""
    words = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=LONGEST,
        pad_token_id=words["<pad>"],
        bos_token_id=words["<s>"],
        eos_token_id=words["</s>"],
        tie_word_embeddings=True,
    )
    return draw_model(config, recipe.seed)


def train_text_base(
    recipe: TextRecipe,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Trains from scratch on answers and refusals."""
    model = new_text_model(recipe, tokenizer)
    schedule = Schedule(
        recipe.base_epochs,
        recipe.base_batch,
        recipe.base_rate,
        f"hcnr-lab-text-base-{recipe.seed}",
        recipe.threads,
    )
    _train(model, tokenizer, samples, schedule, recipe, progress)
    return model


def train_text_tuned(
    recipe: TextRecipe,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    samples: Sequence[Sample],
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Fine-tunes a model in place on the task: answers only, and not one refusal."""
    schedule = Schedule(
        recipe.tuned_epochs,
        recipe.tuned_batch,
        recipe.tuned_rate,
        f"hcnr-lab-text-tuned-{recipe.seed}",
        recipe.threads,
    )
    _train(model, tokenizer, samples, schedule, recipe, progress)
    return model


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    schedule: Schedule,
    recipe: TextRecipe,
    progress: Progress | None,
) -> None:
    device = training_device(recipe)
    train(
        model,
        tokenize(samples, tokenizer, max_length=LONGEST),
        schedule,
        pad=tokenizer.get_vocab()["<pad>"],
        device=device,
        bfloat16=device.type == "cuda",
        progress=progress,
    )
