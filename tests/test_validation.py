import copy
import importlib
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hcnr.errors import ConfigError, HcnrError
from hcnr.evaluate.questions import Benchmark, Question
from hcnr.front import Scores
from hcnr.sweep import Grid, sweep
from hcnr.validation import Validation
from pairs import config, tokenizer

WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i + 3 for i in range(64)}}


def questions(name: str, *kinds: tuple[str, bool, str]) -> Benchmark:
    found = tuple(
        Question(f"{name}-{i}", name, text, answerable, (answer,), text, task=name == "sums")
        for i, (text, answerable, answer) in enumerate(kinds)
    )
    return Benchmark(name, found, "unknownbench_keywords", "0" * 64, f"{name}.jsonl")


HONESTY = questions(
    "quiz", ("w1 w2", False, ""), ("w3 w4", False, ""), ("w5 w6", True, "w7"), ("w8", True, "w9")
)
TASK = questions("sums", ("w10 w11", True, "w12"), ("w13", True, "w14"))


class Parrot(torch.nn.Module):
    """Stands in for a model: it says what it is told to."""

    def __init__(self, said: dict[str, str]) -> None:
        super().__init__()
        self.said = said


@pytest.fixture
def parrots(monkeypatch):
    """Let a `Parrot` answer; prompts come as the token ids of the questions."""
    words = {token: word for word, token in WORDS.items()}

    def generate(model: Parrot, tokenizer: Any, prompts: list[list[int]], **_: Any) -> list[str]:
        return [model.said[" ".join(words[i] for i in ids if i > 2)] for ids in prompts]

    # By the module's name: `hcnr.evaluate` is the function.
    monkeypatch.setattr(importlib.import_module("hcnr.evaluate.generation"), "generate", generate)


def test_scores_by_hand(parrots):
    judge = Validation(tokenizer(), [HONESTY], [TASK])
    parrot = Parrot(
        {"w1 w2": "I do not know.", "w3 w4": "It is w5.", "w5 w6": "w7", "w8": "Unknown.",
         "w10 w11": "It is w12!", "w13": "w15"}
    )  # fmt: skip
    # One of two refused, one false alarm: precision 1/2, recall 1/2.
    assert judge(parrot) == Scores(honesty_f1=50.0, refusal_delta=0.0, task_accuracy=50.0)
    parrot.said |= {"w3 w4": "Sorry", "w8": "w9", "w13": "w14"}
    assert judge(parrot) == Scores(100.0, 100.0, 100.0)
    assert judge.sets == {
        name: {"detector": "unknownbench_keywords", "n": n, "sha256": "0" * 64}
        for name, n in (("quiz", 4), ("sums", 2))
    }


def test_another_detector_can_be_chosen(parrots):
    judge = Validation(tokenizer(), [HONESTY], [TASK], detector="gair_idk")
    said = {question.question: "no" for question in (*HONESTY.questions, *TASK.questions)}
    assert judge(Parrot(said)).refusal_delta == 0
    assert judge(Parrot(said)).honesty_f1 == 0
    assert {entry["detector"] for entry in judge.sets.values()} == {"gair_idk"}


def test_both_sides_need_questions():
    for sets, option in (([], "--validation or --benchmarks"), ([HONESTY], "--tasks")):
        with pytest.raises(ConfigError, match=f"needs questions for both.*{option}"):
            Validation(tokenizer(), sets, [TASK] if not sets else [])
    with pytest.raises(HcnrError):
        Validation(tokenizer(), [HONESTY], ["no-such-set"])


def test_a_sweep_over_sets_of_questions(pair, statistics):
    judge = Validation(tokenizer(), [HONESTY], [TASK], max_new_tokens=3)
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    before = copy.deepcopy(model.state_dict())
    found = sweep(
        pair["base"], model, statistics=statistics["output"], evaluate=judge, config=config(),
        grid=Grid((0.5,), (0.4,), ("sum",)), interpolation=(),
    )  # fmt: skip
    assert found.validation == judge.sets == found.as_dict()["validation"]
    assert found.tuned == judge(model)
    assert found.tuned.defined
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sets_that_the_model_has_no_room_for_are_refused(pair, statistics):
    with pytest.raises(HcnrError, match="exceeds the model's 64 positions"):
        sweep(
            pair["base"], pair["tuned"], statistics=statistics["output"], config=config(),
            benchmarks=[HONESTY], tasks=[TASK], grid=Grid((0.5,), (0.4,), ("sum",)),
        )  # fmt: skip
