"""Answering 64 prompts in batches, over a plain `generate` loop of one prompt at a time."""

import copy
import random
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hcnr.evaluation.generation import generate, padding_token
from pairs import tokenizer

Race = Callable[..., dict[str, float]]
NEW_TOKENS = 16


def plain_loop(model: Any, words: Any, prompts: list[str]) -> list[str]:
    answers = []
    for prompt in prompts:
        ids = words(prompt, return_tensors="pt").to(model.device)
        start = ids["input_ids"].shape[1]
        output = model.generate(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=padding_token(words),
        )
        answers += words.batch_decode(output[:, start:], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def test_batches_against_a_plain_loop(race: Race, device: torch.device) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=67, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval().to(device)  # pyright: ignore[reportArgumentType]
    words, chance = tokenizer(), random.Random(0)
    prompts = [
        " ".join(f"w{chance.randrange(60)}" for _ in range(chance.randint(8, 60)))
        for _ in range(64)
    ]
    # In float64, where no near tie of two tokens is decided by the order of summation.
    exact = copy.deepcopy(model).double()
    mine = generate(exact, words, prompts[:16], batch_size=8, max_new_tokens=NEW_TOKENS)
    assert mine == plain_loop(exact, words, prompts[:16])

    race(
        f"64 prompts, {NEW_TOKENS} new tokens",
        {
            "batches of 32": lambda: generate(
                model, words, prompts, batch_size=32, max_new_tokens=NEW_TOKENS
            ),
            "plain loop": lambda: plain_loop(model, words, prompts),
        },
        rounds=3,
        prompts=64,
    )
