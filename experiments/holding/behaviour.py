"""What a model does on the questions of one split, question by question, and paired comparisons."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from experiments.trial.real_testbed import answer_real, token_f1
from experiments.trial.within_seed import outcomes_of
from hcnr.curvature.passes import micro_batches, sample_losses
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.evaluation.scoring import SetScores, difference
from hcnr.models.model import fast_bfloat16
from hcnr.stats import percentile_interval, resample

_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One model on one split.

    Attributes:
        losses: of each task question, the mean negative log-likelihood of the right answer's
            tokens, in nats.
        f1: of each task question, the token F1 of the response, 0 to 1.
        refused: of each honesty set a digit per question, 1 where the response is a refusal.
    """

    losses: list[float]
    f1: list[float]
    refused: dict[str, str]


class Journal:
    """What was evaluated, a line of JSON each; a line that was cut short is evaluated again."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        self._behaviours: dict[str, Behaviour] = {}
        self._cut = False
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            self._cut = not text.endswith("\n")
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                self._behaviours[entry["key"]] = Behaviour(**entry["behaviour"])

    def get(self, key: str) -> Behaviour | None:
        """What was evaluated under a key."""
        return self._behaviours.get(key)

    def add(self, key: str, behaviour: Behaviour) -> None:
        """Keep it; it survives the process from here on."""
        self._behaviours[key] = behaviour
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("\n" * self._cut)
            self._cut = False
            file.write(json.dumps({"key": key, "behaviour": dataclasses.asdict(behaviour)}) + "\n")


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, question_sets: QuestionSets
) -> Behaviour:
    """Ask a model, float32 and in eval mode, every question of some sets; HotpotQA is its task."""
    questions = [one for many in question_sets.tasks.values() for one in many]
    samples = [Sample(one.prompt, one.answers[0]) for one in questions]
    held_out = tokenize(samples, tokenizer)
    losses = [0.0] * len(questions)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
        for batch in micro_batches(model, held_out, range(len(held_out)), _TOKENS):
            for index, loss in zip(batch.indices, sample_losses(model, batch), strict=True):
                losses[index] = float(loss)
        responses = answer_real(tokenizer, "hotpotqa", model, question_sets)
    scores = question_sets.score(responses)
    answers = [text for name in question_sets.tasks for text in responses[name]]
    return Behaviour(
        losses=losses,
        f1=[
            max(token_f1(text, answer) for answer in one.answers)
            for one, text in zip(questions, answers, strict=True)
        ],
        refused={
            name: "".join(map(str, outcomes.refused.astype(int)))
            for name, outcomes in scores.honesty.items()
        },
    )


def delta(behaviour: Behaviour, answerable: dict[str, str]) -> tuple[float, list[float]]:
    """Mean refusal delta over the sets, in points, and its 95 % interval over questions."""
    macro = _scores(behaviour, answerable).as_dict()["macro"]
    return macro["refusal_delta"], macro["ci95"]["refusal_delta"]


def kept(behaviour: Behaviour, base: Behaviour, tuned: Behaviour) -> float | None:
    """Percent of the free tuning's gain in likelihood, the trial's retention; None without one."""
    start, end = float(np.mean(base.losses)), float(np.mean(tuned.losses))
    return (
        100.0 * (start - float(np.mean(behaviour.losses))) / (start - end) if end < start else None
    )


def compare(ours: Behaviour, theirs: Behaviour, answerable: dict[str, str]) -> dict[str, Any]:
    """Ours minus theirs, each `[value, low, high]`: `delta` and `f1` in points, `loss` in nats.

    Intervals are 95 % over questions, resampled for both alike.
    """
    differences = difference(_scores(ours, answerable), _scores(theirs, answerable))
    lead = differences["macro"]["refusal_delta"]
    return {
        "delta": [lead["value"], *lead["ci95"]],
        "loss": _paired(ours.losses, theirs.losses),
        "f1": _paired(ours.f1, theirs.f1, 100.0),
    }


def _paired(ours: list[float], theirs: list[float], scale: float = 1.0) -> list[float]:
    gaps = scale * (np.array(ours) - np.array(theirs))
    draws = resample(gaps[:, None].astype(np.float32), key="task")[:, 0] / len(gaps)
    return [float(gaps.mean()), *cast(list[float], percentile_interval(draws))]


def _scores(behaviour: Behaviour, answerable: dict[str, str]) -> SetScores:
    return SetScores(
        {
            name: outcomes_of(name, digits, behaviour.refused[name])
            for name, digits in answerable.items()
        }
    )
