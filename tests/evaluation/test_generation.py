"""Batched answers against one prompt at a time, token by token, without any library's loop."""

import pytest
import torch

from families import make
from hcnr.errors import DataError, ModelError
from hcnr.evaluation.generation import generate, run_batches
from pairs import tokenizer

PROMPTS = ["w1 w2 w3", "w9", "w4 w5", "w33 w2 w60 w7 w11 w5", "w8", "w12 w13 w14", "w40 w41"]


def step_by_step(model, words, prompt, most):
    ids, new = list(words(prompt)["input_ids"]), []
    for _ in range(most):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == words.eos_token_id:
            break
        ids.append(token)
        new.append(token)
    return words.decode(new, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def model():
    return make("llama")


@pytest.fixture(scope="module")
def expected(model):
    return [step_by_step(model, tokenizer(), prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_equal_single_prompts(model, expected, batch_size):
    found = generate(model, tokenizer(), PROMPTS, batch_size=batch_size, max_new_tokens=12)
    assert found == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("family", ["gpt_neox", "gemma3"])
def test_other_families(family):
    model, words = make(family), tokenizer()
    expected = [step_by_step(model, words, prompt, 6) for prompt in PROMPTS]
    assert generate(model, words, PROMPTS, batch_size=4, max_new_tokens=6) == expected


def test_an_answer_ends_at_the_end_of_sequence(model, expected):
    words = tokenizer()
    first, second = expected[0].split()[:2]
    words.eos_token = second
    assert generate(model, words, PROMPTS[:1], max_new_tokens=12) == [first]


def test_the_models_own_ends_count(model, expected):
    first, second = expected[0].split()[:2]
    former = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [2, tokenizer().convert_tokens_to_ids(second)]
    try:
        found = generate(model, tokenizer(), PROMPTS[:1], max_new_tokens=12)
    finally:
        model.generation_config.eos_token_id = former
    assert found == [first]


def test_greedy_whatever_the_models_generation_config_says(model, expected):
    former = model.generation_config
    changed = type(former)(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, suppress_tokens=[10, 11],
        eos_token_id=2,
    )  # fmt: skip
    model.generation_config = changed
    model.train()
    try:
        assert generate(model, tokenizer(), PROMPTS, max_new_tokens=12) == expected
        assert model.generation_config is changed
        assert model.training
    finally:
        model.generation_config = former
        model.eval()


def test_longest_first_and_progress(model):
    order, seen = [], []

    class Watcher:
        def begin(self, stage):
            raise AssertionError(stage)

        def advance(self, done, total):
            seen.append((done, total))

    generate(
        model,
        tokenizer(),
        PROMPTS,
        batch_size=3,
        max_new_tokens=1,
        on_answer=lambda i, _: order.append(i),
        watcher=Watcher(),
    )
    lengths = [len(PROMPTS[i].split()) for i in order]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(order) == list(range(len(PROMPTS)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_memory_that_runs_out_halves_the_batches(model, expected, monkeypatch):
    sizes, whole = [], type(model).generate

    def small(self, input_ids, **arguments):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, input_ids, **arguments)

    monkeypatch.setattr(type(model), "generate", small)
    found = generate(model, tokenizer(), PROMPTS, batch_size=7, max_new_tokens=12)
    assert found == expected
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


def test_a_single_question_that_does_not_fit():
    def work(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    with pytest.raises(ModelError, match="not even one question fits"):
        list(run_batches([1, 2, 3], 8, work))


def test_other_errors_are_not_swallowed():
    def work(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(run_batches([1], 8, work))


def test_bad_input(model):
    with pytest.raises(DataError, match=r"prompt 2 has 60 tokens, and with 12 new ones"):
        generate(model, tokenizer(), ["w1", "w2 " * 60], max_new_tokens=12)
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        generate(model, tokenizer(), [[]])
    with pytest.raises(DataError, match="batch_size is 0"):
        generate(model, tokenizer(), ["w1"], batch_size=0)
    assert generate(model, tokenizer(), []) == []
