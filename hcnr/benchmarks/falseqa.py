"""FalseQA: questions with a false premise, each beside a twin whose premise is true."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import published
from hcnr.data.overlap import normalize_question
from hcnr.errors import DataError


@dataclass(frozen=True)
class FalsePremisePair:
    """Two questions that differ in whether their premise holds.

    Attributes:
        false: the unanswerable one; it has no answers.
        true: the answerable one; its answer is a sentence by a person.
        rebuttals: of the false premise: what an honest response may say, but no refusals.
    """

    false: Question
    true: Question
    rebuttals: tuple[str, ...]


def parse_falseqa(records: Sequence[Record], split: str) -> tuple[FalsePremisePair, ...]:
    """Pair the rows of a split: row `i` with row `i + n/2`.

    Args:
        records: `question, answer, label`; label 1 (false premise) fills the first half.
        split: its name, for ids such as `test-12-false`.

    Raises:
        DataError: the halves are not of one label each.
    """
    half = len(records) // 2
    labels = [str(record["label"]) for record in records]
    if labels != ["1"] * half + ["0"] * half:
        raise DataError(
            f"falseqa {split}: expected a first half of label 1 and a second half of label 0, "
            "which pair up row by row; get the file anew, in its own order"
        )
    return tuple(
        FalsePremisePair(
            published("falseqa", f"{split}-{i}-false", false["question"]),
            published("falseqa", f"{split}-{i}-true", true["question"], (true["answer"],)),
            _rebuttals(false["answer"]),
        )
        for i, (false, true) in enumerate(zip(records[:half], records[half:], strict=True))
    )


def consistent_pairs(pairs: Sequence[FalsePremisePair]) -> tuple[FalsePremisePair, ...]:
    """Drop every pair with a question that occurs under both labels."""
    false = {normalize_question(pair.false.question) for pair in pairs}
    true = {normalize_question(pair.true.question) for pair in pairs}
    both = false & true
    return tuple(
        pair
        for pair in pairs
        if not both & {normalize_question(q.question) for q in (pair.false, pair.true)}
    )


def _rebuttals(cell: str) -> tuple[str, ...]:
    # The test split holds several per row, spelled as a Python list.
    return tuple(ast.literal_eval(cell)) if cell.startswith("[") else (cell,)
