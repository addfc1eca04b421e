"""How questions are put, whoever answers: what is kept, what is missing, what was answered."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.questions import Question
from hcnr.config import EvaluateConfig, RestoreConfig
from hcnr.errors import ModelError
from hcnr.evaluation.answers import Key, open_answers
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.progress import Stages, Watcher

OnAnswer = Callable[[int, str], None]
Answering = Callable[[list[int], OnAnswer, Watcher], object]
"""Answers the questions at these places: calls with each one's number in the list, and its text."""


@dataclass(frozen=True)
class EvaluationRun:
    """How questions are put, the same for every model of a run.

    Attributes:
        question_sets: the sets.
        folder: where answers are kept; None keeps none.
        config: all settings; `batch_size` is requests at once where a server answers.
        refusal: the sentence whose probability is measured; None measures none.
        stages: the clock, which knows who is told.
    """

    question_sets: QuestionSets
    folder: Path | None
    config: EvaluateConfig
    refusal: str | None
    stages: Stages

    @property
    def opening(self) -> RestoreConfig:
        """The settings by which models are opened."""
        return RestoreConfig(device=self.config.device, dtype=self.config.dtype)


@dataclass(frozen=True)
class Responses:
    """What a model said: responses `[n]` and calibration columns, both by set."""

    by_set: dict[str, list[str]]
    calibration: dict[str, dict[str, Any]]


def members(question_sets: QuestionSets) -> list[tuple[str, Question]]:
    """Every question with the name of its set, in the order in which they are asked."""
    return [(name, question) for name, many in question_sets.sets.items() for question in many]


def by_set(question_sets: QuestionSets, texts: Sequence[str]) -> dict[str, list[str]]:
    """Texts in the order of `members`, by set."""
    rest = iter(texts)
    return {name: [next(rest) for _ in many] for name, many in question_sets.sets.items()}


def answer_missing(
    run: EvaluationRun, label: str, facts: dict[str, Any], keys: Sequence[Key], answering: Answering
) -> dict[str, list[str]]:
    """Have every question answered that has no answer yet, and keep answers as they come.

    Args:
        run: what and how.
        label: name of the model, and of the file of its answers.
        facts: what the answers depend on.
        keys: of the questions, in the order of `members`.
        answering: answers what is missing.

    Returns:
        Responses by set.

    Raises:
        OutputError: the answers kept are another model's, or of other settings.
    """
    questions = members(run.question_sets)
    known: dict[Key, str] = {}
    with contextlib.ExitStack() as stack:
        kept = None
        if run.folder is not None:
            path = run.folder / f"answers-{label}.jsonl"
            kept = stack.enter_context(open_answers(path, facts))
            known = kept.known
        missing = [i for i, key in enumerate(keys) if key not in known]

        def keep(number: int, text: str) -> None:
            index = missing[number]
            if kept is None:
                known[keys[index]] = text
            else:
                name, question = questions[index]
                kept.add(keys[index], question, text, task=name in run.question_sets.tasks)

        if missing:
            with run.stages.stage(f"answers of {label}") as watcher:
                answering(missing, keep, watcher)
    return by_set(run.question_sets, [known[key] for key in keys])


def check_spoken(label: str, answers: Responses) -> None:
    """Raise ModelError where every answer of a model is empty."""
    texts = [text for responses in answers.by_set.values() for text in responses]
    if not any(text.strip() for text in texts):
        raise ModelError(
            f"{label} generated nothing for any of the {len(texts)} questions; check that its "
            "weights, tokenizer and chat template belong together (or set chat_template to never)"
        )
