"""SelfAware's file: questions that nobody can answer, among ones from three known data sets."""

from collections.abc import Sequence

from hcnr.evaluate.overlap import normalize_question
from hcnr.evaluate.questions import Question
from hcnr.evaluate.sources import Record
from hcnr.evaluate.templates import fill_template


def parse_selfaware(records: Sequence[Record]) -> tuple[Question, ...]:
    """Unique questions, of repeated ones the first.

    Args:
        records: `question_id, question, answerable, answer` (null where unanswerable).
    """
    found: dict[str, Question] = {}
    for record in records:
        question = Question(
            id=str(record["question_id"]),
            set="selfaware",
            question=record["question"],
            answerable=record["answerable"],
            answers=tuple(record["answer"] or ()),
            prompt=fill_template("selfaware", record["question"]),
        )
        found.setdefault(normalize_question(question.question), question)
    return tuple(found.values())
