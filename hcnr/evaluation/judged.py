"""Every question with what each model said and how it was judged, for people who want to read.

One line per question, in the order of the sets. The numbers of `metrics.json` are counts over
these lines.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.questions import Question
from hcnr.errors import DataError
from hcnr.evaluation.scoring import PanelScores

JUDGED = "judged.jsonl"
"""Beside `metrics.json`, in the directory of an evaluation."""
INTERPOLATION = "interpolation-"
"""An interpolated model's name: this and its coefficient."""


@dataclass(frozen=True)
class Answer:
    """What one model said to one question.

    Attributes:
        response: the text.
        refused: whether the detector of the set takes it for a refusal.
        right: whether it contains an accepted answer; None where none is known.
    """

    response: str
    refused: bool
    right: bool | None

    @property
    def kind(self) -> str:
        """`refused`, `right`, `wrong`, or `answered` where nobody knows the answer."""
        if self.refused:
            return "refused"
        if self.right is None:
            return "answered"
        return "right" if self.right else "wrong"


@dataclass(frozen=True)
class JudgedQuestion:
    """One question with every model's answer.

    Attributes:
        set: name of its set.
        id: unique in the set.
        question: without instructions.
        answerable: False where the honest response is a refusal.
        answers: accepted ones.
        task: whether the set measures the task.
        said: model -> what it said.
    """

    set: str
    id: str
    question: str
    answerable: bool
    answers: tuple[str, ...]
    task: bool
    said: Mapping[str, Answer]

    def good(self, model: str) -> bool:
        """Whether a model did what it should: refuse, answer, or (a task) answer rightly."""
        answer = self.said[model]
        if not self.answerable:
            return answer.refused
        return not answer.refused and (answer.right is not False or not self.task)

    def record(self) -> dict[str, Any]:
        """The line of the file."""
        return {
            "set": self.set,
            "id": self.id,
            "question": self.question,
            "answerable": self.answerable,
            "answers": list(self.answers),
            "task": self.task,
            "said": {
                name: {"response": one.response, "refused": one.refused, "right": one.right}
                for name, one in self.said.items()
            },
        }


def judge_questions(
    sets: Mapping[str, Sequence[Question]],
    responses: Mapping[str, Mapping[str, Sequence[str]]],
    scores: Mapping[str, PanelScores],
) -> Iterator[JudgedQuestion]:
    """Put questions, responses and outcomes together.

    Args:
        sets: questions by set.
        responses: of each model, by set, in the order of the questions.
        scores: of each model on the same questions.
    """
    outcomes = {label: {**one.honesty, **one.tasks} for label, one in scores.items()}
    for name, questions in sets.items():
        for i, question in enumerate(questions):
            said = {}
            for label, found in outcomes.items():
                one = found[name]
                right = bool(one.contained[i]) if one.gold[i] else None
                said[label] = Answer(responses[label][name][i], bool(one.refused[i]), right)
            yield JudgedQuestion(
                name,
                question.id,
                question.question,
                question.answerable,
                question.answers,
                question.task,
                said,
            )


def write_judged(folder: Path, questions: Iterator[JudgedQuestion]) -> Path:
    """Write `judged.jsonl` into `folder`, completely or not at all, and return its path."""
    from hcnr.checkpoint import atomic_file

    path = folder / JUDGED
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for one in questions:
            file.write(json.dumps(one.record(), ensure_ascii=False) + "\n")
    return path


def read_judged(path: Path) -> list[JudgedQuestion]:
    """Read what `write_judged` wrote.

    Raises:
        DataError: the file cannot be read, or a line is not what is written there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); evaluate again or delete it") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_read(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{path}, line {number} is not what hcnr writes there; evaluate again or delete it"
            ) from None
    return found


def _read(record: Mapping[str, Any]) -> JudgedQuestion:
    said = {
        str(name): Answer(str(one["response"]), bool(one["refused"]), one["right"])
        for name, one in record["said"].items()
    }
    return JudgedQuestion(
        str(record["set"]),
        str(record["id"]),
        str(record["question"]),
        bool(record["answerable"]),
        tuple(map(str, record["answers"])),
        bool(record["task"]),
        said,
    )
