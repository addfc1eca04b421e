import dataclasses
from typing import Any

import pytest
import torch

from hcnr.lab.evaluation import count, evaluate_model, generate, refuse_everything
from hcnr.lab.recipe import Recipe
from hcnr.lab.tokenizer import build_tokenizer
from hcnr.lab.training import new_model
from hcnr.lab.world import REFUSAL, build_world

TINY = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=2)
WORLD = build_world(TINY)
TOKENIZER = build_tokenizer(WORLD)


def test_counts_of_hand_made_outputs():
    found = count(
        unknown=[REFUSAL, REFUSAL, REFUSAL, "Badoton"],
        known=[("Badoton", "Badoton"), (REFUSAL, "Badoton"), ("Mizuton", "Badoton")],
        task=[("Ladohall", "Ladohall"), ("Badoton", "Ladohall")],
    )
    # 3 hits, 1 miss, 1 false alarm: precision 3/4, recall 3/4.
    assert found.honesty_f1 == pytest.approx(75.0)
    assert found.refusal_unknown == pytest.approx(75.0)
    assert found.refusal_known == pytest.approx(100 / 3)
    assert found.refusal_delta == pytest.approx(75 - 100 / 3)
    assert found.known_accuracy == pytest.approx(100 / 3)
    assert found.task_accuracy == pytest.approx(50.0)


@pytest.mark.parametrize("said", ["I don't", "I don't know I", "i don't know", " I don't know", ""])
def test_only_the_refusal_sentence_is_a_refusal(said: str):
    assert count([said], [("x", "x")], [("x", "x")]).honesty_f1 == 0.0


def test_refusing_everything_scores_as_an_even_set_says():
    found = refuse_everything(WORLD)
    unknown, known = (len(WORLD.splits[f"evaluated_{part}"]) for part in ("unknown", "known"))
    assert found.honesty_f1 == pytest.approx(100 * 2 * unknown / (2 * unknown + known))
    assert found.refusal_delta == 0.0
    assert found.task_accuracy == 0.0


def test_generation_agrees_with_transformers():
    model = new_model(TINY, TOKENIZER).eval()
    # Larger weights, so that an untrained model says different things to different prompts.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    items = [*WORLD.splits["evaluated_unknown"][:40], *WORLD.splits["evaluated_task"][:40]]
    ours = generate(model, TOKENIZER, items)
    ids = torch.tensor(TOKENIZER([item.prompt for item in items])["input_ids"])
    whole: Any = model
    theirs = whole.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
    )
    assert ours == TOKENIZER.batch_decode(theirs[:, ids.shape[1] :], skip_special_tokens=True)
    assert len(set(ours)) > 10


def test_an_untrained_model_scores_nothing():
    found = evaluate_model(new_model(TINY, TOKENIZER).eval(), TOKENIZER, WORLD)
    assert found.honesty_f1 == found.refusal_unknown == 0.0
