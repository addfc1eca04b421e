"""SelfAware's file: questions that nobody can answer, among ones from three known data sets."""

from collections.abc import Sequence

from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import published
from hcnr.data.overlap import normalize_question


def parse_selfaware(records: Sequence[Record]) -> tuple[Question, ...]:
    """Unique questions, of repeated ones the first.

    Args:
        records: `question_id, question, answerable, answer` (null where unanswerable).
    """
    questions: dict[str, Question] = {}
    for record in records:
        text = record["question"]
        question = published(
            "selfaware", str(record["question_id"]), text, record["answer"] or (),
            answerable=record["answerable"], template="selfaware",
        )  # fmt: skip
        questions.setdefault(normalize_question(text), question)
    return tuple(questions.values())
