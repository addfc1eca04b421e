"""A user's own questions, in any format that samples may have, and those of the starter set."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hcnr.benchmarks.questions import Benchmark, Question
from hcnr.data.files import numbered
from hcnr.data.formats import QUESTIONS, parse_record
from hcnr.data.items import Item
from hcnr.data.records import Records, open_records
from hcnr.data.starter import STARTER, VALIDATION, starter_questions
from hcnr.detectors import DEFAULT, OF_SETS, open_detector
from hcnr.errors import ConfigError, DataError
from hcnr.hub import HUB


def load_questions(
    source: Any, limit: int | None = None, *, name: str | None = None, task: bool = False
) -> Benchmark:
    """Read questions; they are asked as they are, in their order.

    Every record is validated, also those that `limit` leaves out.

    Args:
        source: whatever `hcnr.data.samples.load_samples` takes: `starter` or
            `starter-validation`, a file, a data set, or records. Beside what is asked a
            record has `answerable` (true or false) and optionally `answers` (accepted
            ones) and `id`. Where no record says `answerable`, all are answerable in a
            task, and otherwise responses that refuse make the others; where none has `answers`, the
            response is the accepted one. `notes` say so.
        limit: how many questions to use at most, the first ones; None for all.
        name: of the set; by default that of the file.
        task: whether the questions measure the task.

    Raises:
        ConfigError: `limit` is below 1.
        DataError: the source, a line or a record cannot be used; names which one and why.
    """
    check_limit(limit)
    records = _open(source)
    items = [parse_record(located) for located in records.located]
    if not items:
        raise DataError(f"{records.name} holds no questions, expected at least one")
    name = name or _name(records)
    notes: list[str] = []
    answerable = _answerable(name, items, notes, task)
    answers = _answers(name, items, answerable, notes)
    questions: dict[str, Question] = {}
    for item, can, accepted in zip(items, answerable, answers, strict=True):
        item.check_question()
        if item.id in questions:
            raise DataError(
                f"{item.location} has the id {item.id!r} of an earlier line; give every question "
                "an id of its own"
            )
        questions[item.id] = Question(
            item.id, name, item.question, can, accepted, item.prompt, task, item.turns
        )
    kind = " and ".join(dict.fromkeys(item.format for item in items))
    if kind != QUESTIONS:
        notes.insert(0, f"{name}: read as {kind}.")
    first = answerable[:limit]
    if len(set(first)) < len(set(answerable)):
        notes.append(
            f"{name}: the first {len(first)} of its {len(answerable)} questions are all "
            f"{'' if first[0] else 'un'}answerable: let both kinds alternate in the file, or raise "
            "--limit."
        )
    return Benchmark(
        name=name,
        questions=tuple(questions.values())[:limit],
        detector=OF_SETS.get(name, DEFAULT),
        sha256=_sha256(records, questions.values()),
        source=records.name,
        format=kind,
        notes=tuple(notes),
    )


def check_limit(limit: int | None) -> None:
    """Raise ConfigError unless `limit` is a number of questions or None."""
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1; leave it out for all questions")


def _open(source: Any) -> Records:
    if isinstance(source, str) and source in (STARTER, VALIDATION):
        return Records(source, numbered(source, starter_questions(source)))
    return open_records(source)


def _name(records: Records) -> str:
    """A short name for the set; answers are kept by it."""
    if records.path is not None:
        return records.path.stem
    if records.name.startswith("the given"):
        return "questions"
    return Path(records.name.removeprefix(HUB).partition(":")[0]).name


def _answerable(name: str, items: Sequence[Item], notes: list[str], task: bool) -> list[bool]:
    labels = [item.answerable for item in items]
    if all(one is None for one in labels):
        if task:
            return [True] * len(items)
        if all(item.response is not None for item in items):
            refuses = open_detector(DEFAULT)
            responses = [item.response or "" for item in items]
            refused = refuses.many(responses, [item.question for item in items])
            notes.append(
                f"{name}: no record says whether it is answerable: the {int(refused.sum())} "
                f"responses that refuse, by {DEFAULT}, make it unanswerable, the other "
                f"{len(items) - int(refused.sum())} answerable."
            )
            return [not one for one in refused.tolist()]
    for item, label in zip(items, labels, strict=True):
        if label is None:
            raise DataError(
                f"{item.location}: 'answerable' is missing, expected true or false (or in no "
                "record and a 'response' in every one)"
            )
    return [bool(one) for one in labels]


def _answers(
    name: str, items: Sequence[Item], answerable: Sequence[bool], notes: list[str]
) -> list[tuple[str, ...]]:
    answers = [item.answers for item in items]
    pairs = list(zip(items, answerable, strict=True))
    if any(answers) or not any(can and item.response is not None for item, can in pairs):
        return answers
    notes.append(
        f"{name}: no record has 'answers': the whole response of an answerable one is its accepted "
        "answer."
    )
    return [(item.response,) if can and item.response is not None else () for item, can in pairs]


def _sha256(records: Records, questions: Any) -> str:
    if records.path is not None:
        return hashlib.sha256(records.path.read_bytes()).hexdigest()
    rows = json.dumps([question.record() for question in questions], sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()
