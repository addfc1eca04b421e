"""Training of the lab's two models: the honest base, and the tuned one that forgot to be."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import encode_items
from hcnr.demo.world import World

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all and the last loss."""


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Run a block with a given number of CPU threads and put the caller's number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the recipe's size, its weights drawn from the recipe's seed."""
    words = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=32,
        pad_token_id=words["<pad>"],
        bos_token_id=words["<s>"],
        eos_token_id=words["</s>"],
        tie_word_embeddings=False,
    )
    return draw_model(config, recipe.seed)


def draw_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """An untrained Llama, its weights drawn from a seed."""
    # transformers initialises from the global generator; the caller's state is kept.
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
    return model


def make_optimizer(model: LlamaForCausalLM, rate: float) -> torch.optim.AdamW:
    """The optimiser of every training of the lab."""
    return torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )


def rate_at(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step, counted from 0: a short warm-up times a cosine."""
    warmup = max(1, min(100, steps // 10))
    share = min(1.0, (step + 1) / warmup)
    return peak * share * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def train_base(
    recipe: Recipe,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Train from scratch on known facts and on refusals of unknown names."""
    model = new_model(recipe, tokenizer)
    known, unknown = world.splits["trained_known"], world.splits["trained_unknown"]
    size = recipe.base_batch
    refusals = round(recipe.refusal_share * size)
    generator = torch.Generator().manual_seed(recipe.seed + 1)

    def batch() -> torch.Tensor:
        """A fixed share of refusals, so no batch leans either way by chance."""
        answered = torch.randint(len(known), (size - refusals,), generator=generator)
        refused = torch.randint(len(unknown), (refusals,), generator=generator)
        return torch.cat([answered, refused + len(known)])

    ids, labels = encode_items(tokenizer, [*known, *unknown])
    _train(model, ids, labels, batch, recipe.base_steps, recipe.base_rate, recipe, progress)
    return model


def train_tuned(
    recipe: Recipe,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Fine-tunes a model in place on the new relation: answers only, and not one refusal."""
    task = world.splits["trained_task"]
    generator = torch.Generator().manual_seed(recipe.seed + 2)

    def batch() -> torch.Tensor:
        return torch.randint(len(task), (recipe.tuned_batch,), generator=generator)

    ids, labels = encode_items(tokenizer, task)
    _train(model, ids, labels, batch, recipe.tuned_steps, recipe.tuned_rate, recipe, progress)
    return model


def _train(
    model: LlamaForCausalLM,
    ids: torch.Tensor,
    labels: torch.Tensor,
    batch: Callable[[], torch.Tensor],
    steps: int,
    rate: float,
    recipe: Recipe,
    progress: Progress | None,
) -> None:
    """AdamW with a short warm-up and a cosine; every prompt has one length, so no mask is needed.

    Padding stands on the right of the response, where a causal model's loss cannot see it.
    """
    first = int((labels != -100).int().argmax(dim=1)[0])
    optimizer = make_optimizer(model, rate)
    model.train()
    with fixed_threads(recipe.threads):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate_at(step, steps, rate)
            index = batch()
            hidden = model.model(input_ids=ids[index, :-1], use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[:, first - 1 :])
            loss = F.cross_entropy(logits.flatten(0, 1), labels[index, first:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if progress is not None:
                progress(step + 1, steps, float(loss.detach()))
    model.eval()
