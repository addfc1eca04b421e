"""UnknownBench's NEC and RefuNQ: questions about things that do not exist, and about real ones."""

from collections.abc import Sequence

from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import published
from hcnr.data.overlap import normalize_question


def parse_unknownbench(
    unanswerable: Sequence[Record], answerable: Sequence[Record], name: str
) -> tuple[Question, ...]:
    """Questions of both files, without those that occur in both.

    The file is the label: the field `label` holds 0 or 1 in NEC, but accepted answers in RefuNQ,
    whose unanswerable questions are all labelled "NEC".

    Args:
        unanswerable: records with `prompt, label`.
        answerable: the same; a list as label holds the accepted answers.
        name: of the set.
    """
    both = set.intersection(
        *({normalize_question(r["prompt"]) for r in part} for part in (unanswerable, answerable))
    )
    return tuple(
        published(
            name,
            f"{'answerable' if known else 'unanswerable'}-{i}",
            record["prompt"],
            _answers(record["label"]) if known else (),
            answerable=known,
        )
        for known, part in ((False, unanswerable), (True, answerable))
        for i, record in enumerate(part)
        if normalize_question(record["prompt"]) not in both
    )


def _answers(label: object) -> tuple[str, ...]:
    return tuple(map(str, label)) if isinstance(label, list) else ()
