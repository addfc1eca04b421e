"""The data sets that a replication restores or trains with, as samples of prompt and response."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hcnr.benchmarks.falseqa import FalsePremisePair
from hcnr.benchmarks.kuq import KuqQuestion
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Record
from hcnr.benchmarks.templates import published
from hcnr.data.overlap import QuestionIndex, digest, normalize_question
from hcnr.data.refusals import REFUSALS, refusal
from hcnr.errors import DataError

__all__ = [
    "GROUP",
    "RAIT_SIZE",
    "REFUSALS",
    "TASK_SIZE",
    "honesty_samples",
    "parse_puqa",
    "parse_triviaqa",
    "rait_samples",
    "refusal",
    "sample",
]

# Four groups make the honesty set.
GROUP = 32
TASK_SIZE = 128
RAIT_SIZE = 5000

Sample = dict[str, Any]
# (response, question) -> whether the response is a refusal.
IsRefusal = Callable[[str, str], bool]


def sample(question: Question) -> Sample:
    """A question with its target: its first answer, or a refusal where there is none.

    The two questions of a FalseQA pair share a `group`, which says that they belong together.
    """
    pair = question.id.rpartition("-")[0] if question.set == "falseqa" else None
    return {
        "prompt": question.prompt,
        "response": question.answers[0] if question.answerable else refusal(question.question),
        "question": question.question,
        "answerable": question.answerable,
        "set": question.set,
        "id": question.id,
        **({"group": f"{question.set}-{pair}"} if pair else {}),
    }


def honesty_samples(
    kuq: Sequence[KuqQuestion], pairs: Sequence[FalsePremisePair], is_refusal: IsRefusal
) -> list[Sample]:
    """Choose 32 unknowns over all categories, 32 knowns, and 32 false premises with their twins.

    Each group takes the first of its pool, less answers that a detector would take for refusals.

    Raises:
        DataError: a pool is too small.
    """
    knowns = [item.question for item in kuq if item.category is None]
    knowns = [question for question in knowns if not _refuses(question, is_refusal)]
    pairs = [pair for pair in pairs if not _refuses(pair.true, is_refusal)]
    groups = {
        "KUQ unknown": _spread([item for item in kuq if item.category is not None]),
        "KUQ known": knowns,
        "FalseQA false": [pair.false for pair in pairs],
        "FalseQA true": [pair.true for pair in pairs],
    }
    for name, group in groups.items():
        if len(group) < GROUP:
            raise DataError(
                f"the honesty pool has {len(group)} questions of the group {name}, expected at "
                f"least {GROUP}"
            )
    return _ordered(sample(q) for group in groups.values() for q in group[:GROUP])


def rait_samples(
    pool: Iterable[Sample],
    puqa: Iterable[Question],
    triviaqa: Iterable[Question],
    is_refusal: IsRefusal,
) -> list[Sample]:
    """Join the honesty pool and PUQA, and fill up with TriviaQA to 5000 samples.

    Answers that a detector would take for refusals are left out.

    Raises:
        DataError: all of it is fewer than 5000.
    """
    chosen = [
        one
        for one in pool
        if not (one["answerable"] and is_refusal(one["response"], one["question"]))
    ]
    chosen += [sample(question) for question in puqa]
    taken = QuestionIndex(one["question"] for one in chosen)
    fill = (q for q in triviaqa if not taken.near(q.question) and not _refuses(q, is_refusal))
    chosen += map(sample, itertools.islice(fill, max(0, RAIT_SIZE - len(chosen))))
    if len(chosen) != RAIT_SIZE:
        raise DataError(f"the RAIT pool has {len(chosen)} samples, expected {RAIT_SIZE}")
    return _ordered(chosen)


def parse_puqa(records: Sequence[Record]) -> tuple[Question, ...]:
    """PUQA: who wrote a paper of 2023. Its field `authors` holds the answers and is not read."""
    return tuple(published("puqa", f"row-{i}", row["question"]) for i, row in enumerate(records))


def parse_triviaqa(records: Sequence[Record]) -> tuple[Question, ...]:
    """TriviaQA, `id, question, golden_answers`; of repeated questions the first."""
    questions: dict[str, Question] = {}
    for record in records:
        text = record["question"]
        if len(text) > 1 and text[0] == text[-1] == '"' and '""' in text:
            # Left over from a CSV file.
            text = text[1:-1].replace('""', '"')
        answers = record["golden_answers"]
        question = published("triviaqa", record["id"], text, answers, answerable=True)
        questions.setdefault(normalize_question(text), question)
    return tuple(questions.values())


def _spread(unknowns: Sequence[KuqQuestion]) -> list[Question]:
    """Take the categories in turn, each in its own order."""
    seen: dict[str | None, int] = {}
    turns = []
    for item in unknowns:
        turn = seen[item.category] = seen.get(item.category, 0) + 1
        turns.append((turn, item.category or "", item.question))
    return [question for *_, question in sorted(turns, key=lambda turn: turn[:2])]


def _refuses(question: Question, is_refusal: IsRefusal) -> bool:
    return is_refusal(question.answers[0], question.question)


def _ordered(samples: Iterable[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda one: digest(one["question"]))
