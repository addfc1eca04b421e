"""Test beds of tiny random pairs, whose evaluators look at weights instead of asking questions."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from experiments.trial.fair_trial import Environment
from experiments.trial.metrics import Metrics
from experiments.trial.real_testbed import make_real_questions
from experiments.trial.testbed import TestBed
from experiments.trial.text_data import Split, SplitQuestions
from hcnr.benchmarks.questions import Question
from pairs import tokenizer, write_jsonl, write_pair

REFUSAL = "w60 w61"


@dataclasses.dataclass(frozen=True)
class WeighedTestBed(TestBed):
    """A test bed whose figures follow from how far a model has gone from tuned towards base.

    Attributes:
        asked: The part of every model that was evaluated, in order.
        before: Called before each of them.
    """

    asked: list[str] = dataclasses.field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def evaluator(self, split: Split) -> Any:
        return _WeightEvaluator(self, split)


class _WeightEvaluator:
    def __init__(self, testbed: WeighedTestBed, split: Split) -> None:
        self._testbed, self._of_split = testbed, split
        self._base, self._tuned = (
            dict(testbed.load(path).named_parameters()) for path in (testbed.base, testbed.tuned)
        )

    @torch.no_grad()
    def __call__(self, model: Any, instruction: str = "", *, least: float = -math.inf) -> Metrics:
        self._testbed.before()
        self._testbed.asked.append(self._of_split)
        share = self._share(model)
        if 100.0 * (1.0 - share) < least:
            return Metrics.unasked(100.0 * (1.0 - share))
        # The test part ranks models the other method round: who looks at it chooses otherwise.
        gain = 50.0 * (share if self._of_split == "validation" else 1.0 - share)
        return Metrics(
            f1=40.0 + gain,
            refusal_delta=20.0 + gain,
            refusal_answerable=5.0,
            accuracy=90.0 * (1.0 - share),
            retention=100.0 * (1.0 - share),
            sets={"names": {"f1": 40.0 + gain}},
        )

    @torch.no_grad()
    def retention(self, model: Any) -> float:
        return 100.0 * (1.0 - self._share(model))

    def _share(self, model: Any) -> float:
        """How far a model has gone from tuned towards base."""
        gone = whole = 0.0
        for name, value in model.named_parameters():
            change = self._base[name] - self._tuned[name]
            gone += float(((value - self._tuned[name]) * change).sum())
            whole += float(change.square().sum())
        return gone / whole

    def refuse_all(self) -> Metrics:
        return Metrics(66.7, 0.0, 100.0, 0.0, float("nan"), {"names": {"f1": 66.7}})


def write_testbed(root: Path, seed: int = 0, samples: int = 12) -> WeighedTestBed:
    """Write a tiny pair with honesty samples that refuse in turn, and judge it by its weights."""
    root.mkdir(parents=True, exist_ok=True)
    found = write_pair(root)
    honesty = [
        {
            "prompt": f"w{i} w{i + 7} w{i + 1}",
            "response": f"w{i % 5} w{i % 3}" if i % 2 else REFUSAL,
        }
        for i in range(samples)
    ]
    return WeighedTestBed(
        world="tiny",
        seed=seed,
        directory=root,
        base=found["base"],
        tuned=found["tuned"],
        honesty=write_jsonl(found["honesty"], honesty),
        task=found["task"],
        refusal=REFUSAL,
        tokenizer=tokenizer(),
        facts={"parameters": 12_345, "counts": {"names": 4}, "recipe": {}},
        question_sets={},
        answer=cast(Any, None),
    )


def ask(name: str, count: int) -> tuple[Question, ...]:
    """So many questions without an answer, then as many with one."""
    return tuple(
        Question(
            id=f"{name}-{i}", set=name, question=f"w{i} w{i + 2}", answerable=i >= count,
            answers=("w1",) if i >= count else (), prompt=f"w{i} w{i + 2}", task=False,
        )
        for i in range(2 * count)
    )  # fmt: skip


class QuestionedTestBed(WeighedTestBed):
    """Base refuses all unanswerable questions; a model the share that it went towards base."""

    def evaluator(self, split: Any) -> Any:
        return _AskingEvaluator(self, split)


class _AskingEvaluator(_WeightEvaluator):
    @torch.no_grad()
    def __call__(self, model: Any, instruction: str = "", *, least: float = -math.inf) -> Metrics:
        metrics = super().__call__(model, instruction, least=least)
        if math.isnan(metrics.f1):
            return metrics
        honesty = self._testbed.question_sets["validation"].honesty
        share = min(max(1 - metrics.retention / 100, 0.0), 1.0)
        digits = {}
        for name, many in honesty.items():
            last = round(share * sum(not one.answerable for one in many))
            digits[name] = "".join(str(int(i < last)) for i in range(len(many)))
        sets = {name: {"refusal_delta": 100 * share} for name in honesty}
        return dataclasses.replace(metrics, refused=digits, sets=sets)


def write_questioned_testbed(root: Path, samples: int = 16) -> QuestionedTestBed:
    """The same with validation questions of two honesty sets."""
    weighed = write_testbed(root, samples=samples)
    questions = {"kuq": ask("kuq", 12), "nec": ask("nec", 12)}
    panel = make_real_questions(SplitQuestions(questions, ()), ["kuq", "nec"])
    fields = {one.name: getattr(weighed, one.name) for one in dataclasses.fields(weighed)}
    return QuestionedTestBed(**{**fields, "question_sets": {"validation": panel}})


def environment_of(root: Path, seeds: int = 2) -> tuple[Environment, dict[int, WeighedTestBed]]:
    """A course over a few such test beds, and the test beds."""
    testbeds = {seed: write_testbed(root / f"world-{seed}", seed) for seed in range(seeds)}
    return Environment("tiny", lambda seed, stage: testbeds[seed]), testbeds
