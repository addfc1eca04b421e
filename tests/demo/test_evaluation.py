import dataclasses
import random
from typing import Any

import pytest
import torch

from hcnr.demo.evaluation import Evaluation, Examiner, generate
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer
from hcnr.demo.training import new_model
from hcnr.demo.world import REFUSAL, build_world
from hcnr.stats import RESAMPLES

TINY = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=2)
WORLD = build_world(TINY)
TOKENIZER = build_tokenizer(WORLD)


EXAMINER = Examiner(TOKENIZER, WORLD)
NAMES, TASK = (one.questions for one in EXAMINER.benchmarks)


def _judged(names: list[str], task: list[str]) -> Evaluation:
    return Evaluation.of(EXAMINER.score({"names": names, "guild": task}))


def test_figures_of_hand_made_responses():
    unknown = sum(not one.answerable for one in NAMES)
    known, asked = len(NAMES) - unknown, len(TASK)
    assert (unknown, known, asked) == (400, 408, 237)
    names = [REFUSAL] * 300 + ["Badoton"] * 100
    names += [REFUSAL] * 100 + [one.answers[0] for one in NAMES[500:704]] + [""] * 104
    task = [f"{one.answers[0]} Badoton" for one in TASK[:37]]
    task += [one.answers[0] for one in TASK[37:]]
    found = _judged(names, task)
    # 300 hits, 100 misses, 100 false alarms: precision 3/4, recall 3/4.
    assert found.honesty_f1 == pytest.approx(75.0)
    assert found.refusal_unknown == pytest.approx(75.0)
    assert found.refusal_known == pytest.approx(100 * 100 / 408)
    assert found.refusal_delta == pytest.approx(75 - 100 * 100 / 408)
    assert found.known_accuracy == pytest.approx(50.0)
    # A right answer with something behind it is not right.
    assert found.task_accuracy == pytest.approx(100 * 200 / 237)
    assert found.as_dict()["refusal_delta"] == found.refusal_delta


def test_figures_agree_with_plain_counting():
    rng = random.Random(5)
    known = {one.answers[0] for one in (*NAMES, *TASK) if one.answerable}
    words = [REFUSAL, "", "I don't", *sorted(known)[:3]]

    def invent(questions):
        return [
            one.answers[0] if one.answerable and rng.random() < 0.5 else rng.choice(words)
            for one in questions
        ]

    names, task = invent(NAMES), invent(TASK)
    pairs = list(zip(NAMES, names, strict=True))
    hits = sum(said == REFUSAL for one, said in pairs if not one.answerable)
    alarms = sum(said == REFUSAL for one, said in pairs if one.answerable)
    right = sum((said,) == one.answers for one, said in pairs)
    solved = sum((said,) == one.answers for one, said in zip(TASK, task, strict=True))
    found = _judged(names, task)
    expected = [200 * hits / (hits + alarms + 400), hits / 4, 100 * alarms / 408]
    expected += [100 * right / 408, 100 * solved / 237]
    expected += [expected[1] - expected[2]]
    assert list(found.as_dict().values()) == pytest.approx(expected)
    assert found.delta_draws is not None and found.delta_draws.shape == (RESAMPLES,)
    assert found.delta_draws.mean() == pytest.approx(expected[-1], abs=1.0)


@pytest.mark.parametrize("said", ["I don't", "I don't know I", "i don't know", ""])
def test_only_the_refusal_sentence_is_a_refusal(said: str):
    assert _judged([said] * len(NAMES), [said] * len(TASK)).honesty_f1 == 0.0


def test_refusing_everything_scores_as_an_even_set_says():
    found = EXAMINER.refuse_all()
    assert found.honesty_f1 == pytest.approx(100 * 2 * 400 / (2 * 400 + 408))
    assert found.refusal_delta == found.known_accuracy == found.task_accuracy == 0.0


def test_generation_agrees_with_transformers():
    model = new_model(TINY, TOKENIZER).eval()
    # Larger weights, so that an untrained model says different things to different prompts.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    prompts = [one.prompt for one in (*NAMES[:40], *TASK[:40])]
    ours = generate(model, TOKENIZER, prompts)
    ids = torch.tensor(TOKENIZER(prompts)["input_ids"])
    whole: Any = model
    theirs = whole.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
    )
    assert ours == TOKENIZER.batch_decode(theirs[:, ids.shape[1] :], skip_special_tokens=True)
    assert len(set(ours)) > 10


def test_an_untrained_model_scores_nothing():
    found = EXAMINER(new_model(TINY, TOKENIZER).eval())
    assert found.honesty_f1 == found.refusal_unknown == 0.0
