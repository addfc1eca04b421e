import copy
import importlib
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hcnr.benchmarks.questions import Benchmark, Question
from hcnr.choosing.front import Gain, Scores
from hcnr.config import SweepConfig
from hcnr.data.samples import load_samples
from hcnr.errors import ConfigError, DataError, HcnrError
from hcnr.search.sweep import Grid, sweep
from hcnr.search.validation import Validation
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
    monkeypatch.setattr(importlib.import_module("hcnr.evaluation.generation"), "generate", generate)


def test_scores_by_hand(parrots):
    judge = Validation(tokenizer(), [HONESTY], [TASK], SweepConfig())
    parrot = Parrot(
        {"w1 w2": "I do not know.", "w3 w4": "It is w5.", "w5 w6": "w7", "w8": "Unknown.",
         "w10 w11": "It is w12!", "w13": "w15"}
    )  # fmt: skip
    # One of two refused, one false alarm: precision 1/2, recall 1/2.
    assert judge(parrot) == Scores(50.0, 0.0, 50.0, refusal_rate_answerable=50.0)
    before = judge(parrot)
    parrot.said |= {"w3 w4": "Sorry", "w8": "w9", "w13": "w14"}
    assert judge(parrot) == Scores(100.0, 100.0, 100.0, 0.0)
    # The same resamples for all models: of itself the model differs by nothing.
    assert Gain.between(judge(parrot), judge(parrot)).ci95 == (0.0, 0.0)
    low, high = Gain.between(judge(parrot), before).ci95 or (0.0, 0.0)
    assert low < 100.0 <= high
    # Two of four refusals are right: precision 1/2, recall 1.
    assert judge.refuse_all() == Scores(100 * 4 / 6, 0.0, 0.0, 100.0)
    assert judge.sets == {
        name: {"detector": "unknownbench_keywords", "n": n, "sha256": "0" * 64}
        for name, n in (("quiz", 4), ("sums", 2))
    }


def test_another_detector_can_be_chosen(parrots):
    judge = Validation(tokenizer(), [HONESTY], [TASK], SweepConfig(detector="gair_idk"))
    said = {question.question: "no" for question in (*HONESTY.questions, *TASK.questions)}
    assert judge(Parrot(said)).refusal_delta == 0
    assert judge(Parrot(said)).honesty_f1 == 0
    assert {entry["detector"] for entry in judge.sets.values()} == {"gair_idk"}


def test_both_sides_need_questions():
    for sets, option in (([], "--validation or --benchmarks"), ([HONESTY], "--tasks")):
        with pytest.raises(ConfigError, match=f"needs questions for both.*{option}"):
            Validation(tokenizer(), sets, [TASK] if not sets else [], SweepConfig())
    with pytest.raises(HcnrError):
        Validation(tokenizer(), [HONESTY], ["no-such-set"], SweepConfig())


def test_a_set_cannot_be_both_benchmark_and_task():
    task = Benchmark("quiz", TASK.questions, TASK.detector, "1" * 64, "quiz.jsonl")
    with pytest.raises(ConfigError, match="the set quiz is named as benchmark and as task; name"):
        Validation(tokenizer(), [HONESTY], [task], SweepConfig())


@pytest.mark.parametrize("answerable", [True, False])
def test_honesty_questions_of_one_kind_are_refused(answerable):
    same = questions("quiz", ("w1", answerable, "w2"), ("w3", answerable, "w4"))
    counts = "2 answerable and 0" if answerable else "0 answerable and 2"
    with pytest.raises(DataError, match=f"a set with both, but quiz has {counts} unanswerable;"):
        Validation(tokenizer(), [same], [TASK], SweepConfig())
    # Beside a set with both it is of use, and its notes say what is undefined.
    other = questions("other", ("w1", answerable, "w2"))
    judge = Validation(tokenizer(), [HONESTY, other], [TASK], SweepConfig())
    kind = "unanswerable" if answerable else "answerable"
    assert any(f"other has no {kind} questions" in note for note in judge.notes)


def test_questions_that_were_measured_are_counted():
    judge = Validation(tokenizer(), [HONESTY], [TASK], SweepConfig())
    assert judge.repeated(["W1, w2!", "w13", "w14", "w99"]) == 2
    assert judge.repeated([]) == 0


def test_a_sweep_over_sets_of_questions(pair, statistics):
    judge = Validation(tokenizer(), [HONESTY], [TASK], SweepConfig(max_new_tokens=3))
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    before = copy.deepcopy(model.state_dict())
    found = sweep(
        pair["base"], model, statistics=statistics["output"], evaluate=judge, config=config(),
        grid=Grid((0.5,), (0.4,), ("sum",)), coefficients=(),
    )  # fmt: skip
    # Questions bring resamples, so the gain has its interval.
    gain = found.as_dict()["candidates"][0]["gain"]
    assert gain["ci95"][0] <= gain["value"] <= gain["ci95"][1]
    assert found.validation == judge.sets == found.as_dict()["validation"]
    assert found.as_dict()["validation_settings"] == {
        "limit": None, "detector": None, "max_new_tokens": 3, "chat_template": "auto",
    }  # fmt: skip
    assert found.refuse_all == judge.refuse_all()
    rates = [row["refusal_rate_answerable"] for row in found.as_dict()["candidates"]]
    assert rates == [found.candidates[0].scores.refusal_rate_answerable] != [None]
    assert found.tuned == judge(model)
    assert found.tuned.defined
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sets_that_the_model_has_no_room_for_are_refused_before_measuring(pair, monkeypatch):
    def measure(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be measured")

    # By the module's name: `hcnr.sweep` is the function.
    monkeypatch.setattr(importlib.import_module("hcnr.search.sweep"), "PairRun", measure)
    with pytest.raises(DataError, match=r"question 'quiz-0' of quiz has .* the model's 64 positio"):
        sweep(**pair, config=config(), benchmarks=[HONESTY], tasks=[TASK])
    # The smaller of both models decides.
    base = AutoModelForCausalLM.from_pretrained(pair["base"])
    base.config.max_position_embeddings = 9
    with pytest.raises(DataError, match="exceeds the model's 9 positions"):
        sweep(
            base, pair["tuned"], pair["honesty"], pair["task"], config=config(),
            benchmarks=[HONESTY], tasks=[TASK], max_new_tokens=8,
        )  # fmt: skip


def test_a_sweep_says_which_questions_were_measured(pair):
    text = load_samples(pair["honesty"], limit=8).samples[0].prompt
    asked = questions("quiz", (text, False, ""), ("w5 w6", True, "w7"))
    found = sweep(
        **pair, config=config(), benchmarks=[asked], tasks=[TASK], max_new_tokens=3,
        grid=Grid((0.5,), (0.4,), ("none",)), coefficients=(),
    )  # fmt: skip
    assert any(
        message.startswith("1 of the validation questions are among the measured samples")
        for message in found.messages
    )
