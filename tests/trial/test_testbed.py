import dataclasses
import json
import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

import hcnr
from experiments.trial import testbed as testbed_module
from experiments.trial.metrics import Metrics
from experiments.trial.testbed import SPLITS, TestBed, open_synthetic, open_text
from experiments.trial.text_data import REFUSAL, TASK
from experiments.trial.text_questions import answer
from hcnr.demo.recipe import Recipe
from hcnr.demo.world import build_world
from text_worlds import TINY, write_corpus

FAST = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=1, base_steps=3, tuned_steps=3)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCNR_CACHE", str(tmp_path_factory.mktemp("cache")))
        root = write_corpus(tmp_path_factory.mktemp("data"), patch)
        recipe = dataclasses.replace(TINY, base_epochs=3, base_batch=16, base_rate=3e-3)
        yield open_text(root, 5, recipe=recipe)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCNR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(testbed_module, "Recipe", lambda seed: dataclasses.replace(FAST, seed=seed))
        yield open_synthetic(3)


@pytest.fixture(params=["text", "synthetic"])
def testbed(request) -> TestBed:
    return request.getfixturevalue(request.param)


def _said(testbed: TestBed, said: dict[str, list[str]]) -> TestBed:
    return dataclasses.replace(testbed, answer=lambda model, questions: said)


def test_a_pair_is_where_it_says_and_can_be_measured(testbed):
    for path in (testbed.base, testbed.tuned, testbed.honesty, testbed.task):
        assert path.exists() and path.parent == testbed.directory
    model = testbed.load(testbed.tuned)
    assert not model.training and model.dtype == torch.float32
    config = hcnr.RestoreConfig(device="cpu", samples=4, compensation="none", priority="random")
    repaired = hcnr.restore(
        testbed.base, testbed.tuned, testbed.honesty, testbed.task, config=config
    )
    assert isinstance(repaired, LlamaForCausalLM)
    assert (
        testbed.evaluator("validation")(repaired).sets.keys()
        == testbed.question_sets["validation"].honesty.keys()
    )


def test_models_are_asked_in_bfloat16_where_the_testbed_says_so(text):
    """Answers and likelihoods alike; weights stay as they are."""
    model = text.load(text.tuned)
    products: list[torch.dtype] = []
    layer = model.model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda *call: products.append(call[2].dtype))
    for bfloat16, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        evaluator = dataclasses.replace(text, bfloat16=bfloat16).evaluator("validation")
        products.clear()
        kept = evaluator.retention(model)
        assert set(products) == {dtype} and kept == pytest.approx(100.0, abs=1e-3)
        products.clear()
        evaluator(model)
        assert set(products) == {dtype} and model.dtype == torch.float32


def test_no_sample_is_about_a_name_that_is_asked(synthetic):
    """Neither in validation, by which settings are chosen, nor afterwards."""
    world = build_world(dataclasses.replace(FAST, seed=3))
    measured = {
        item.name for name, items in world.splits.items() if "measured" in name for item in items
    }
    asked = {
        split: [one for many in synthetic.question_sets[split].sets.values() for one in many]
        for split in SPLITS
    }
    names = {
        split: {one.question.removesuffix(" ?").split(" of ")[1] for one in many}
        for split, many in asked.items()
    }
    assert not measured & (names["validation"] | names["evaluated"])
    assert not names["validation"] & names["evaluated"]
    before = sum(len(world.splits[f"evaluated_{kind}"]) for kind in ("known", "task"))
    counts = synthetic.facts["counts"]
    after = {
        split: sum(counts[f"{split}_{kind}"] for kind in ("known", "task")) for split in SPLITS
    }
    assert sum(after.values()) == before and 0 < after["validation"] < after["evaluated"]
    assert all(len(many) == sum(counts[f"{split}_{kind}"] for kind in ("known", "task", "unknown"))
               for split, many in asked.items())  # fmt: skip


def test_facts(text, synthetic):
    for testbed, world, seed in ((text, "text", 5), (synthetic, "synthetic", 3)):
        assert (testbed.world, testbed.seed) == (world, seed)
        assert testbed.facts["recipe"]["seed"] == seed
        whole = sum(one.numel() for one in testbed.load(testbed.base).parameters())
        assert testbed.facts["parameters"] == whole
        assert testbed.facts["training"]["tuned_seconds"] >= 0
        assert json.loads(json.dumps(testbed.facts)) == testbed.facts
    assert text.facts["measured_sets"] == ["kuq", "falseqa"]
    assert synthetic.facts["measured_sets"] == ["names"]
    for split in SPLITS:
        asked = text.question_sets[split].sets
        counts = text.facts["counts"][split]
        assert {name: len(many) for name, many in asked.items()} == {
            name: sum(one.values()) for name, one in counts.items()
        }
        names = synthetic.question_sets[split].honesty["names"]
        counts = synthetic.facts["counts"]
        assert len(names) == counts[f"{split}_unknown"] + counts[f"{split}_known"]


def test_both_ends_of_retention(testbed):
    evaluator = testbed.evaluator("validation")
    losses = [
        evaluator._loss(testbed.load(path), testbed.question_sets["validation"])
        for path in (testbed.base, testbed.tuned)
    ]
    assert losses[1] < losses[0]
    assert evaluator(testbed.load(testbed.base)).retention == 0.0
    assert evaluator(testbed.load(testbed.tuned)).retention == 100.0


def test_an_instruction_stands_above_every_question_and_answer(text):
    asked = []

    def answers(model, questions):
        asked.append(questions)
        return {name: ["Red"] * len(many) for name, many in questions.sets.items()}

    testbed = dataclasses.replace(
        text, answer=answers, task_figure=lambda questions, _: float(len(questions.tasks))
    )
    evaluator, model = testbed.evaluator("evaluated"), testbed.load(testbed.tuned)
    plain, told = evaluator(model), evaluator(model, "Say so.")
    assert asked[0] is testbed.question_sets["evaluated"]
    for name, many in asked[1].sets.items():
        own = asked[0].sets[name]
        assert [one.prompt for one in many] == [f"Say so.\n{one.prompt}" for one in own]
        assert [dataclasses.replace(one, prompt="") for one in many] == [
            dataclasses.replace(one, prompt="") for one in own
        ]
    # The ends of retention are base and tuned without it, the model's own loss is with it.
    assert plain.retention == 100.0 != told.retention
    losses = [evaluator._loss(model, questions) for questions in asked]
    base, tuned = evaluator._ends
    assert losses[0] == tuned
    assert told.retention == pytest.approx(100 * (base - losses[1]) / (base - tuned))
    assert told.refused == plain.refused and set(told.refused) == set(
        testbed.question_sets["evaluated"].honesty
    )


def test_retention_agrees_with_a_plain_loop(text):
    model = text.load(text.tuned)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    tokenizer = text.tokenizer

    @torch.no_grad()
    def loss(model) -> float:
        found = []
        for one in text.question_sets["evaluated"].tasks[TASK]:
            prompt = tokenizer(one.prompt)["input_ids"]
            end = tokenizer(one.answers[0], add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *end, tokenizer.eos_token_id]])
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            found.append(F.cross_entropy(logits, ids[0, len(prompt) :]))
        return float(torch.stack(found).mean())

    base, tuned = (loss(text.load(path)) for path in (text.base, text.tuned))
    expected = 100 * (base - loss(model)) / (base - tuned)
    assert expected != pytest.approx(100.0, abs=1.0)
    assert text.evaluator("evaluated")(model).retention == pytest.approx(expected, rel=1e-3)


def test_metrics_of_hand_made_responses(text):
    sets = text.question_sets["evaluated"].sets
    # Three unanswerable questions, then three answerable ones.
    responses = {
        "falseqa": [REFUSAL, REFUSAL, "no", REFUSAL, "yes", ""],
        "nec": ["no"] * 6,
        "refunq": [REFUSAL] * 6,
        "kuq": [f"{REFUSAL} It", "I don't", REFUSAL.lower(), "Oh. " + REFUSAL, "a", "b"],
        "selfaware": [REFUSAL] * 3 + ["a"] * 3,
        TASK: [sets[TASK][0].answers[0], sets[TASK][1].answers[0] + " indeed", REFUSAL, ""],
    }
    found = _said(text, responses).evaluator("evaluated")(text.load(text.tuned))
    third = 100 / 3
    expected = {
        "falseqa": (100 * 4 / 6, 2 * third, third, third),
        "nec": (0.0, 0.0, 0.0, 0.0),
        "refunq": (100 * 6 / 9, 100.0, 100.0, 0.0),
        "kuq": (100 * 4 / 5, 2 * third, 0.0, 2 * third),
        "selfaware": (100.0, 100.0, 0.0, 100.0),
    }
    for name, figures in expected.items():
        assert list(found.sets[name].values()) == pytest.approx(figures), name
    means = [sum(column) / 5 for column in zip(*expected.values(), strict=True)]
    assert found.f1 == pytest.approx(means[0])
    assert found.refusal_answerable == pytest.approx(means[2])
    assert found.refusal_delta == pytest.approx(means[3])
    assert found.accuracy == pytest.approx(25.0)
    assert found.retention == 100.0


def test_always_refusing(testbed):
    found = testbed.evaluator("validation").refuse_all()
    counts = testbed.question_sets["validation"].honesty.values()
    shares = [sum(not one.answerable for one in many) / len(many) for many in counts]
    expected = [200 * share / (1 + share) for share in shares]
    assert found.f1 == pytest.approx(sum(expected) / len(expected))
    assert (found.refusal_delta, found.refusal_answerable, found.accuracy) == (0.0, 100.0, 0.0)
    assert math.isnan(found.retention) and found.as_dict()["retention"] is None


def test_metrics_as_json():
    metrics = Metrics(50.0, 10.0, 20.0, 5.0, 97.0, {"kuq": {"f1": 50.0}})
    assert json.loads(json.dumps(metrics.as_dict(), allow_nan=False)) == dataclasses.asdict(metrics)


def test_the_seed_of_a_recipe_gives_way(text, synthetic):
    assert text.facts["recipe"]["seed"] == 5 != TINY.seed
    assert synthetic.seed == synthetic.facts["recipe"]["seed"]


def test_answers_in_a_batch_are_those_given_alone(text):
    questions = text.question_sets["evaluated"]
    model = _talkative(text)
    together = answer(text.tokenizer, model, questions)
    for kind, sets in (("honesty", questions.honesty), ("tasks", questions.tasks)):
        for name, many in sets.items():
            for one, said in zip(many, together[name], strict=True):
                alone = dataclasses.replace(
                    questions, **{"honesty": {}, "tasks": {}, kind: {name: (one,)}}
                )
                if kind == "honesty":
                    assert answer(text.tokenizer, model, alone)[name] == [said]
                else:
                    # Alone, the limit is that of its own accepted answer.
                    assert said.startswith(answer(text.tokenizer, model, alone)[name][0])
    assert len({said for many in together.values() for said in many}) > 10


def test_answers_are_long_enough_for_a_refusal_and_for_no_more_than_the_right_answer(text):
    questions = text.question_sets["evaluated"]
    tokenizer = text.tokenizer
    refusal = tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]
    model = text.load(text.tuned)
    _force(model, [*refusal, 300, 301, 302, 303, 304])
    said = answer(tokenizer, model, questions)
    for name in questions.honesty:
        assert set(said[name]) == {tokenizer.decode([*refusal, 300]).strip()}
    longest = max(
        len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for one in questions.tasks[TASK]
        for text in one.answers
    )
    expected = tokenizer.decode([*refusal, 300, 301, 302, 303, 304][: longest + 1]).strip()
    assert set(said[TASK]) == {expected}


def _talkative(testbed: TestBed):
    """A model of large random weights, which says different things to different prompts."""
    model = testbed.load(testbed.tuned)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.4, generator=generator)
    return model


def _force(model: Any, tokens: list[int]) -> None:
    """Makes a model say given tokens, one after another, whatever it is asked."""
    forward, said = model.forward, iter(())

    def forced(*args: Any, **kwargs: Any) -> Any:
        nonlocal said
        output = forward(*args, **kwargs)
        ids = kwargs["input_ids"]
        if ids.shape[1] > 1:
            said = iter(tokens)
        output.logits[:, -1] = -1.0
        output.logits[:, -1, next(said)] = 1.0
        return output

    model.forward = forced


def test_an_evaluator_repeats_and_leaves_the_model_alone(testbed):
    model = testbed.load(testbed.tuned)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    evaluator = testbed.evaluator("validation")
    assert evaluator(model) == evaluator(model)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())


def test_retention_is_undefined_where_fine_tuning_gained_nothing(text):
    swapped = dataclasses.replace(text, base=text.tuned, tuned=text.base)
    found = swapped.evaluator("validation")(text.load(text.base))
    assert math.isnan(found.retention)


def test_the_random_order_of_asking_changes_nothing(text):
    questions = text.question_sets["validation"]
    model = _talkative(text)
    order = list(range(len(questions.honesty["kuq"])))
    random.Random(1).shuffle(order)
    shuffled = tuple(questions.honesty["kuq"][i] for i in order)
    other = dataclasses.replace(questions, honesty={**questions.honesty, "kuq": shuffled})
    said = answer(text.tokenizer, model, questions)["kuq"]
    assert answer(text.tokenizer, model, other)["kuq"] == [said[i] for i in order]
