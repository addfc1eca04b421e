import dataclasses
import random

import pytest
import torch
import torch.nn.functional as F

from experiments.trial.text_recipe import TextRecipe
from experiments.trial.text_tokenizer import train_tokenizer
from experiments.trial.text_training import (
    LONGEST,
    new_text_model,
    train_text_base,
    train_text_tuned,
    training_device,
)
from hcnr.data.samples import Sample
from hcnr.demo.real.training import plan_epoch
from hcnr.demo.training import draw_model, rate_at
from hcnr.errors import ConfigError
from text_worlds import TINY

SAMPLES = [
    Sample(f"who is the {'very ' * (i % 5)}king of {place}?", answer)
    for i, (place, answer) in enumerate(
        [("Norway", "Harald V"), ("Spain", "Felipe"), ("Mars", "I don't know."),
         ("Denmark", "Frederik"), ("Atlantis", "I don't know.")] * 8
    )
]  # fmt: skip
TOKENIZER = train_tokenizer(SAMPLES, 300, LONGEST)
CALM = dataclasses.replace(TINY, base_epochs=1, base_batch=len(SAMPLES), base_rate=1e-9)


def _into(heard: list[tuple[int, int, float]]):
    return lambda *step: heard.append(step)


def test_every_sample_is_in_one_batch_of_an_epoch_and_lengths_go_together():
    rng = random.Random(3)
    lengths = [rng.randrange(3, 40) for _ in range(101)]
    order = random.Random(5)
    batches = list(plan_epoch(lengths, 8, order))
    assert sorted(i for batch in batches for i in batch) == list(range(101))
    assert [len(batch) for batch in batches].count(8) == 12 and len(batches) == 13
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    assert batches == list(plan_epoch(lengths, 8, random.Random(5)))
    assert batches != list(plan_epoch(lengths, 8, order))


def test_the_loss_is_that_of_a_plain_loop_by_the_tools_rule():
    heard: list[tuple[int, int, float]] = []
    train_text_base(CALM, TOKENIZER, SAMPLES, _into(heard))
    model = new_text_model(CALM, TOKENIZER).eval()
    losses = []
    for one in SAMPLES:
        prompt = TOKENIZER(one.prompt)["input_ids"]
        response = TOKENIZER(one.response, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prompt, *response, TOKENIZER.eos_token_id]])
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        losses.append(F.cross_entropy(logits, ids[0, len(prompt) :], reduction="none"))
    assert [step[:2] for step in heard] == [(1, 1)]
    assert heard[0][2] == pytest.approx(float(torch.cat(losses).mean().detach()), rel=1e-5)


def test_training_learns_and_repeats_and_leaves_global_state_alone():
    recipe = dataclasses.replace(TINY, base_epochs=12, base_batch=8, base_rate=3e-3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    runs = []
    for _ in range(2):
        heard: list[tuple[int, int, float]] = []
        model = train_text_base(recipe, TOKENIZER, SAMPLES, _into(heard))
        assert not model.training
        runs.append(([loss for *_, loss in heard], model.state_dict()))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    (first, weights), (second, again) = runs
    assert first == second and len(first) == 60
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert first[-1] < first[0] - 2.0


def test_fine_tuning_goes_on_from_the_model_in_another_order_for_another_seed():
    def tuned(seed: int):
        recipe = dataclasses.replace(TINY, tuned_epochs=1, tuned_batch=8, tuned_rate=1e-3)
        model = new_text_model(recipe, TOKENIZER)
        before = model.model.embed_tokens.weight.detach().clone()
        recipe = dataclasses.replace(recipe, seed=seed)
        train_text_tuned(recipe, TOKENIZER, model, SAMPLES)
        after = model.model.embed_tokens.weight.detach()
        assert 0 < float((after - before).norm()) < float(before.norm()) / 2
        return after

    assert torch.equal(tuned(0), tuned(0))
    assert not torch.equal(tuned(0), tuned(1))


def test_models_are_drawn_from_the_seed_with_one_embedding():
    one = new_text_model(TINY, TOKENIZER)
    other = new_text_model(dataclasses.replace(TINY, seed=1), TOKENIZER)
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_recipes_have_the_promised_sizes():
    for recipe, low, high in ((TextRecipe(), 1.85e6, 1.95e6), (TextRecipe.large(), 3e7, 1e8)):
        model = new_text_model(dataclasses.replace(recipe, blocks=1), TOKENIZER)
        # The vocabulary of the real text, and all of the blocks.
        rows = recipe.vocabulary - len(TOKENIZER)
        block = sum(one.numel() for one in model.model.layers.parameters())
        whole = sum(one.numel() for one in model.parameters())
        whole += rows * recipe.hidden + (recipe.blocks - 1) * block
        assert low < whole < high
    assert draw_model(model.config, 0).config.hidden_size == TextRecipe.large().hidden


def test_the_large_recipe_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="width 512 needs a CUDA device to be trained, found"):
        training_device(TextRecipe.large())
    assert training_device(TextRecipe()) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device(TextRecipe.large()) == torch.device("cuda")


def test_rates_warm_up_and_fall():
    rates = [rate_at(step, 100, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] < 2.0
    assert rates[50] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0 < rates[-1] < 0.01
