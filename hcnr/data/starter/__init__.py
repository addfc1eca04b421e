"""The starter set: a part of KUQ (MIT licence, in KUQ-LICENSE beside the questions).

`kuq.jsonl` is what `experiments/kuq_questions.py` writes. Its parts `base` and `tuned` share no
question, and no nearly equal one, with the parts `test` and `task`, which are only asked.
"""

import functools
import importlib.resources
import itertools
import json
from typing import Any

__all__ = ["SOURCE", "STARTER", "VALIDATION", "kuq_rows", "starter_questions", "starter_samples"]

STARTER = "starter"
"""Names the honesty samples where samples are taken, and the test questions where questions are."""
VALIDATION = "starter-validation"
"""Names the questions to choose settings by."""

SOURCE = "amayuelas/KUQ"
"""Where it is from, as the hub names data sets."""

_SAMPLES_OF_CLASS, _VALIDATION_OF_CLASS = 256, 100

Row = dict[str, Any]


@functools.cache
def kuq_rows() -> tuple[Row, ...]:
    """The shipped rows: `part, question, answer`, where None as the answer means that nobody knows.

    In the file's order, so that row `i` is line `i + 1`.
    """
    file = importlib.resources.files("hcnr.data.starter").joinpath("kuq.jsonl")
    return tuple(json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())


def starter_samples() -> list[Row]:
    """The honesty samples, 256 unanswerable and 256 answerable ones in turn."""
    from hcnr.data.refusals import refusal

    return [
        {
            "prompt": row["question"],
            "response": refusal(row["question"]) if row["answer"] is None else row["answer"],
            "answerable": row["answer"] is not None,
        }
        for row in _in_turn(*(one[:_SAMPLES_OF_CLASS] for one in _classes("base")))
    ]


def starter_questions(name: str) -> list[Row]:
    """Questions that are in none of the samples, and not nearly; both classes in turn.

    Args:
        name: `starter`, 150 of each class to judge by, or `starter-validation`, 100 of each class
            to choose settings by.
    """
    if name == STARTER:
        return [_question(row) for row in _in_turn(*_classes("test"))]
    from hcnr.data.overlap import QuestionIndex

    taken = QuestionIndex(row["prompt"] for row in starter_samples())
    rest = (
        [row for row in one[_SAMPLES_OF_CLASS:] if not taken.near(row["question"])]
        for one in _classes("base")
    )
    return [_question(row) for row in _in_turn(*(one[:_VALIDATION_OF_CLASS] for one in rest))]


def _classes(part: str) -> tuple[list[Row], list[Row]]:
    """Unanswerable and answerable rows of a part."""
    rows = [row for row in kuq_rows() if row["part"] == part]
    return [r for r in rows if r["answer"] is None], [r for r in rows if r["answer"] is not None]


def _in_turn(unknown: list[Row], known: list[Row]) -> list[Row]:
    """One of each class after the other, so that any even number of the first ones is balanced."""
    return list(itertools.chain.from_iterable(zip(unknown, known, strict=True)))


def _question(row: Row) -> Row:
    question = {"question": row["question"], "answerable": row["answer"] is not None}
    return question if row["answer"] is None else {**question, "answers": [row["answer"]]}
