"""KUQ (Known-Unknown Questions), whose unknowns come in six categories."""

from collections.abc import Sequence
from dataclasses import dataclass

from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import published
from hcnr.data.overlap import normalize_question


@dataclass(frozen=True)
class KuqQuestion:
    """A question and the category of unknowns it belongs to, None for knowns."""

    question: Question
    category: str | None


def parse_kuq(records: Sequence[Record]) -> tuple[KuqQuestion, ...]:
    """Unique questions; of repeated ones the first, of those with both labels none.

    The `answer` of an unknown explains why nobody knows. It is no accepted answer and no refusal,
    and is left out.

    Args:
        records: `question, answer, unknown`, and `category` where unknown.
    """
    labels: dict[str, set[bool]] = {}
    for record in records:
        labels.setdefault(normalize_question(record["question"]), set()).add(record["unknown"])
    questions = []
    for i, record in enumerate(records):
        # Taken out when seen: what comes again finds nothing.
        if len(labels.pop(normalize_question(record["question"]), ())) == 1:
            known = not record["unknown"]
            answers = record["answer"] if known else ()
            question = published(
                "kuq", f"row-{i}", record["question"], answers, answerable=known, template="kuq"
            )
            questions.append(KuqQuestion(question, None if known else record["category"]))
    return tuple(questions)
