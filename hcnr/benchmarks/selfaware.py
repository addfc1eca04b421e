"""SelfAware's file: questions that nobody can answer, among ones from three known data sets."""

from collections.abc import Sequence

from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import fill_template
from hcnr.data.overlap import normalize_question


def parse_selfaware(records: Sequence[Record]) -> tuple[Question, ...]:
    """Unique questions, of repeated ones the first.

    Args:
        records: `question_id, question, answerable, answer` (null where unanswerable).
    """
    questions: dict[str, Question] = {}
    for record in records:
        question = Question(
            id=str(record["question_id"]),
            set="selfaware",
            question=record["question"],
            answerable=record["answerable"],
            answers=tuple(record["answer"] or ()),
            prompt=fill_template("selfaware", record["question"]),
        )
        questions.setdefault(normalize_question(question.question), question)
    return tuple(questions.values())
