"""Training of a text world's two models, by the token rule that the tool measures by."""

import random
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.trial.text_recipe import TextRecipe
from hcnr.batches import collate
from hcnr.demo.training import Progress, draw_model, fixed_threads, make_optimizer, rate_at
from hcnr.errors import ConfigError
from hcnr.examples import Sample
from hcnr.tokens import tokenize

LONGEST = 256
"""Positions of the models; longer samples would lose the left of their prompt."""

# Batches that are filled from one stretch of the shuffled samples, sorted by length.
_STRETCH = 24


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
    order = random.Random(f"hcnr-lab-text-base-{recipe.seed}")
    schedule = (recipe.base_epochs, recipe.base_batch, recipe.base_rate)
    _train(model, tokenizer, samples, schedule, order, recipe, progress)
    return model


def train_text_tuned(
    recipe: TextRecipe,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    samples: Sequence[Sample],
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Fine-tunes a model in place on the task: answers only, and not one refusal."""
    order = random.Random(f"hcnr-lab-text-tuned-{recipe.seed}")
    schedule = (recipe.tuned_epochs, recipe.tuned_batch, recipe.tuned_rate)
    _train(model, tokenizer, samples, schedule, order, recipe, progress)
    return model


def plan_epoch(lengths: Sequence[int], size: int, order: random.Random) -> Iterator[list[int]]:
    """Batches of one pass: every sample once, in a random order, like lengths together.

    Samples are shuffled, sorted by length within stretches of some batches, and the batches of
    a stretch are shuffled again.
    """
    indices = list(range(len(lengths)))
    order.shuffle(indices)
    for start in range(0, len(indices), size * _STRETCH):
        stretch = sorted(indices[start : start + size * _STRETCH], key=lengths.__getitem__)
        batches = [stretch[i : i + size] for i in range(0, len(stretch), size)]
        order.shuffle(batches)
        yield from batches


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    schedule: tuple[int, int, float],
    order: random.Random,
    recipe: TextRecipe,
    progress: Progress | None,
) -> None:
    """AdamW on the mean loss of a batch's response tokens.

    Padding stands on the right, where a causal model's loss cannot see it: no mask is needed.
    """
    epochs, size, rate = schedule
    device = training_device(recipe)
    data = tokenize(samples, tokenizer, max_length=LONGEST)
    pad = tokenizer.get_vocab()["<pad>"]
    steps, step = epochs * -(-len(data) // size), 0
    nn.Module.to(model, device).train()
    optimizer = make_optimizer(model, rate)
    with fixed_threads(recipe.threads):
        for indices in (
            one for _ in range(epochs) for one in plan_epoch(data.lengths, size, order)
        ):
            optimizer.param_groups[0]["lr"] = rate_at(step, steps, rate)
            batch = collate(data.samples, indices, pad_token_id=pad).to(device)
            predicts = batch.response_mask[:, 1:]
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                hidden = model.model(
                    input_ids=batch.input_ids[:, :-1], use_cache=False
                ).last_hidden_state
                logits = model.lm_head(hidden[predicts])
            loss = F.cross_entropy(logits.float(), batch.input_ids[:, 1:][predicts])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if progress is not None:
                progress(step, steps, float(loss.detach()))
    nn.Module.to(model, "cpu").eval()
