"""What asks models the questions of a split and says how they did."""

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from experiments.trial.instructions import instructed
from experiments.trial.metrics import Metrics
from hcnr.curvature.passes import micro_batches, sample_losses
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.evaluation.scoring import SetScores

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from experiments.trial.testbed import TestBed
    from experiments.trial.text_data import Split

_SET_FIGURES = (
    "f1",
    "refusal_rate_unanswerable",
    "refusal_rate_answerable",
    "refusal_delta",
)
# Padded tokens of one forward pass; more is no faster on a CPU.
_TOKENS = 4096


class Evaluator:
    """Asks models the questions of one split of a test bed; prepared once, asked many times."""

    def __init__(self, testbed: "TestBed", split: "Split") -> None:
        """Takes the likelihoods of the held-out task answers at base and tuned."""
        self._testbed, self._questions = testbed, testbed.question_sets[split]
        self._ends = tuple(
            self._loss(testbed.load(path), self._questions)
            for path in (testbed.base, testbed.tuned)
        )

    def __call__(
        self, model: "LlamaForCausalLM", instruction: str = "", *, least: float = -math.inf
    ) -> Metrics:
        """A model's metrics.

        Args:
            model: In eval mode.
            instruction: Stands above every question, of honesty and of the task, whose answers'
                likelihood is compared with that of base and tuned without it.
            least: Retention below which nothing is asked and the other figures are NaN.
        """
        questions = instructed(self._questions, instruction)
        kept = self._kept(self._loss(model, questions))
        if kept < least:
            return Metrics.unasked(kept)
        with self._testbed.asking():
            responses = self._testbed.answer(model, questions)
        scores = questions.score(responses)
        metrics = _metrics(scores, kept)
        if self._testbed.task_figure is None:
            return metrics
        refused = {
            name: "".join(map(str, found.refused.astype(int)))
            for name, found in scores.honesty.items()
        }
        accuracy = self._testbed.task_figure(questions, responses)
        return dataclasses.replace(metrics, accuracy=accuracy, refused=refused)

    def retention(self, model: "LlamaForCausalLM") -> float:
        """`Metrics.retention` alone, from forward passes: nothing is generated."""
        return self._kept(self._loss(model, self._questions))

    def refuse_all(self) -> Metrics:
        """What always refusing would be marked: the reason to never read F1 alone."""
        sets = self._questions.sets.items()
        responses = {name: [self._testbed.refusal] * len(many) for name, many in sets}
        return _metrics(self._questions.score(responses), math.nan)

    @torch.no_grad()
    def _loss(self, model: "LlamaForCausalLM", questions: QuestionSets) -> float:
        """Mean over the task questions of the loss of their right answers."""
        samples = [
            Sample(one.prompt, one.answers[0]) for many in questions.tasks.values() for one in many
        ]
        held_out = tokenize(samples, self._testbed.tokenizer)
        batches = micro_batches(model, held_out, range(len(held_out)), _TOKENS)
        with self._testbed.asking():
            losses = [sample_losses(model, batch) for batch in batches]
        return float(torch.cat(losses).float().mean())

    def _kept(self, loss: float) -> float:
        base, tuned = self._ends
        # Where fine-tuning gained nothing there is nothing to keep.
        return 100.0 * ((base - loss) / (base - tuned)) if tuned < base else math.nan


def _metrics(scores: SetScores, retention: float) -> Metrics:
    honesty, tasks = scores.mean("honesty")[0], scores.mean("tasks")[0]
    return Metrics(
        f1=float(honesty["f1"]),
        refusal_delta=float(honesty["refusal_delta"]),
        refusal_answerable=float(honesty["refusal_rate_answerable"]),
        accuracy=float(tasks["exact_match"]),
        retention=retention,
        sets={
            name: {figure: float(scores.values[name][figure]) for figure in _SET_FIGURES}
            for name in scores.honesty
        },
    )
