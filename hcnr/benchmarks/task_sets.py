"""The four tasks that a model is tuned for, all answerable: HotpotQA, NQ, MedMCQA, BioASQ."""

from collections.abc import Sequence

from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import published, with_choices
from hcnr.data.overlap import normalize_question
from hcnr.errors import DataError


def parse_hotpotqa(records: Sequence[Record]) -> tuple[Question, ...]:
    """HotpotQA without its contexts; records are `question, answer`."""
    return tuple(
        _task("hotpotqa", f"row-{i}", record["question"], (record["answer"],))
        for i, record in enumerate(records)
    )


def parse_nq(records: Sequence[Record], split: str) -> tuple[Question, ...]:
    """NQ-open (`question, answer`) or NonAmbigQA (`question, answers`), both with lists."""
    return tuple(
        _task(
            "nq",
            f"{split}-{i}",
            record["question"],
            record["answers"] if "answers" in record else record["answer"],
        )
        for i, record in enumerate(records)
    )


def parse_medmcqa(records: Sequence[Record]) -> tuple[Question, ...]:
    """MedMCQA's questions with a single right choice, one of each with the same choices.

    The accepted answer is the text of the right choice; the prompt shows the four.

    Args:
        records: `id, question, opa, opb, opc, opd, cop, choice_type`; `cop` is the number of the
            right choice, from 1.

    Raises:
        DataError: a `cop` is not 1 to 4, as in copies of the file that count from 0.
    """
    questions: dict[str, Question] = {}
    for record in records:
        if record["choice_type"] != "single":
            continue
        choices = [record[f"op{letter}"] for letter in "abcd"]
        if record["cop"] not in (1, 2, 3, 4):
            raise DataError(
                f"medmcqa: question {record['id']} has cop {record['cop']!r}, expected the number "
                "of the right choice, 1 to 4; this copy may count from 0: get the original"
            )
        shown = with_choices(record["question"], choices)
        right = choices[record["cop"] - 1]
        question = _task("medmcqa", record["id"], record["question"], (right,), shown)
        questions.setdefault(normalize_question(shown), question)
    return tuple(questions.values())


def parse_bioasq(records: Sequence[Record]) -> tuple[tuple[Question, str], ...]:
    """BioASQ's yesno and factoid questions, each with its edition, such as `11B`.

    Args:
        records: `id, body, type, exact_answer, source_file`; an exact answer is a string for
            yesno, and for factoid a list of lists of synonyms.
    """
    return tuple(
        (
            _task("bioasq", record["id"], record["body"], _exact_answers(record)),
            record["source_file"].partition("B")[0] + "B",
        )
        for record in records
        if record["type"] in ("yesno", "factoid")
    )


def _exact_answers(record: Record) -> tuple[str, ...]:
    exact = record["exact_answer"]
    if record["type"] == "yesno":
        return (exact.lower(),)
    return tuple(synonym for synonyms in exact for synonym in synonyms)


def _task(
    name: str, identity: str, text: str, answers: Sequence[str], shown: str | None = None
) -> Question:
    return published(name, identity, text, answers, answerable=True, shown=shown, task=True)
