"""Every question with what each model said and how it was judged, for people who want to read.

One line per question, in the order of the sets. The numbers of `metrics.json` are counts over
these lines.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hcnr.benchmarks.questions import Question
from hcnr.errors import DataError
from hcnr.evaluation.scoring import SetScores
from hcnr.record.files.schema import Schema

JUDGED = "judged.jsonl"
"""Beside `metrics.json`, in the directory of an evaluation."""
AGAIN = "evaluate again or delete it"
"""What to do with a damaged file."""
INTERPOLATION = "interpolation-"
"""An interpolated model's name: this and its coefficient."""


class Answer(Schema):
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


class JudgedQuestion(Schema):
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
    answers: list[str]
    task: bool
    said: dict[str, Answer]

    def good(self, model: str) -> bool:
        """Whether a model did what it should: refuse, answer, or (a task) answer rightly."""
        answer = self.said[model]
        if not self.answerable:
            return answer.refused
        return not answer.refused and (answer.right is not False or not self.task)


def judge_questions(
    sets: Mapping[str, Sequence[Question]],
    responses: Mapping[str, Mapping[str, Sequence[str]]],
    scores: Mapping[str, SetScores],
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
            answers = {}
            for label, by_set in outcomes.items():
                outcome = by_set[name]
                right = bool(outcome.contained[i]) if outcome.gold[i] else None
                text = responses[label][name][i]
                answers[label] = Answer(
                    response=text, refused=bool(outcome.refused[i]), right=right
                )
            yield JudgedQuestion(
                set=name,
                id=question.id,
                question=question.question,
                answerable=question.answerable,
                answers=list(question.answers),
                task=question.task,
                said=answers,
            )


def write_judged(folder: Path, questions: Iterator[JudgedQuestion]) -> Path:
    """Write `judged.jsonl` into `folder`, completely or not at all, and return its path."""
    from hcnr.checkpoint import atomic_file

    path = folder / JUDGED
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for question in questions:
            file.write(json.dumps(question.as_dict(), ensure_ascii=False) + "\n")
    return path


def read_judged(path: Path) -> list[JudgedQuestion]:
    """Read what `write_judged` wrote.

    Raises:
        DataError: the file cannot be read, or a line is not what is written there; it is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {AGAIN}") from None
    judged = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is no JSON ({error}); {AGAIN}") from None
        judged.append(JudgedQuestion.of(content, f"{path}, line {number}", AGAIN))
    return judged
