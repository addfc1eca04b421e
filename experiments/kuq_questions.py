"""Choose the questions of the starter set and of `hcnr demo --real` out of KUQ (MIT).

python -m experiments.kuq_questions DATA_ROOT hcnr/data/starter/kuq.jsonl
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hcnr.benchmarks.kuq import parse_kuq
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Records, SourceReader
from hcnr.data.overlap import QuestionIndex, digest
from hcnr.detectors import open_detector

# Part -> unanswerable and answerable questions, those that are asked first.
SIZES = {"test": (150, 150), "task": (0, 120), "base": (400, 800), "tuned": (0, 800)}
_PROMPT_WORDS, _ANSWER_WORDS = 30, 8


def choose_questions(records: Records) -> list[dict[str, Any]]:
    """The rows of the file, in the order of their digests within a part.

    No question is in or near two parts of which one is asked.
    """
    refuses = open_detector("unknownbench_keywords")
    pools: dict[bool, list[Question]] = {False: [], True: []}
    for item in parse_kuq(records("kuq/knowns_unknowns.jsonl")):
        question = item.question
        if len(question.question.split()) > _PROMPT_WORDS:
            continue
        if question.answerable:
            answer = question.answers[0] if question.answers else ""
            if not 0 < len(answer.split()) <= _ANSWER_WORDS or refuses(answer, question.question):
                continue
        pools[question.answerable].append(question)
    for pool in pools.values():
        pool.sort(key=lambda one: digest(one.question))
    rows: list[dict[str, Any]] = []
    asked = QuestionIndex(())
    for part, sizes in SIZES.items():
        chosen = []
        for answerable, size in zip((False, True), sizes, strict=True):
            pool = [one for one in pools[answerable] if not asked.near(one.question)]
            chosen += pool[:size]
            taken = {one.id for one in pool[:size]}
            pools[answerable] = [one for one in pool if one.id not in taken]
        if part in ("test", "task"):
            asked = QuestionIndex([*(row["question"] for row in rows), *_texts(chosen)])
        rows += [_row(part, one) for one in chosen]
    return rows


def _texts(questions: Iterable[Question]) -> list[str]:
    return [one.question for one in questions]


def _row(part: str, question: Question) -> dict[str, Any]:
    return {
        "part": part,
        "question": " ".join(question.question.split()),
        "answer": " ".join(question.answers[0].split()) if question.answerable else None,
    }


def main() -> None:
    """Write the file."""
    root, out = sys.argv[1:]
    lines = (
        json.dumps(row, ensure_ascii=False) + "\n" for row in choose_questions(SourceReader(root))
    )
    Path(out).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
