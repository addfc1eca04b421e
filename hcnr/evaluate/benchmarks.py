"""Benchmarks by name, from the authors' files; and a user's own, from a jsonl file."""

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hcnr.errors import ConfigError, DataError
from hcnr.evaluate.detectors import DEFAULT, OF_SETS
from hcnr.evaluate.questions import Benchmark, Question
from hcnr.evaluate.sources import SourceReader
from hcnr.evaluate.splits import HONESTY_SETS, TASK_SETS, Splits
from hcnr.evaluate.templates import fill_template

__all__ = ["HONESTY_SETS", "TASK_SETS", "load_benchmark", "load_questions"]


def load_benchmark(
    name: str, data_root: str | os.PathLike[str] | None = None, limit: int | None = None
) -> Benchmark:
    """Read the evaluation split of a honesty set or a task.

    Questions are in the order of their digests, so that the first ones are a mixed sample.

    Args:
        name: one of `HONESTY_SETS` or `TASK_SETS`.
        data_root: folder with the authors' files; by default `$HCNR_DATA_ROOT`.
        limit: how many questions to use at most, the first ones; None for all.

    Raises:
        ConfigError: the name is unknown, or `limit` is below 1.
        DataError: there is no data root, or a file is missing or not the known one.
    """
    known = HONESTY_SETS + TASK_SETS
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"the benchmark {name!r} is unknown, expected one of {', '.join(known)} or a .jsonl "
            f"file; did you mean {near}?"
        )
    _check_limit(limit)
    reader = SourceReader(data_root)
    questions = Splits(reader).evaluation(name)
    return Benchmark(
        name=name,
        questions=questions[:limit],
        detector=OF_SETS.get(name, DEFAULT),
        sha256=reader.sha256(),
        source=", ".join(str(reader.root / path) for path in reader.files),
    )


def load_questions(path: str | os.PathLike[str], limit: int | None = None) -> Benchmark:
    """Read a user's own benchmark.

    Every record is validated, also those that `limit` leaves out.

    Args:
        path: a .jsonl file, one object per line: `question`, `answerable` (true or false) and
            optionally `answers` (a list of texts), `id` and `prompt`. Without `id` it is the line
            number, without `prompt` UnknownBench's. The set has the name of the file.
        limit: how many questions to use at most, the first ones; None for all.

    Raises:
        ConfigError: `limit` is below 1.
        DataError: the file, a line or a record cannot be used; names which one and why.
    """
    _check_limit(limit)
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"the benchmark file {path} cannot be read ({error.strerror}); check the path"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"the benchmark file {path} is not valid UTF-8; save it as UTF-8") from None
    questions: dict[str, Question] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            question = _parse(f"{path}, line {number}", line, path.stem, str(number))
            if question.id in questions:
                raise DataError(
                    f"{path}, line {number} has the id {question.id!r} of an earlier line; give "
                    "every question an id of its own"
                )
            questions[question.id] = question
    if not questions:
        raise DataError(f"the benchmark file {path} holds no questions, expected at least one")
    return Benchmark(
        name=path.stem,
        questions=tuple(questions.values())[:limit],
        detector=OF_SETS.get(path.stem, DEFAULT),
        sha256=hashlib.sha256(content).hexdigest(),
        source=str(path),
    )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1; leave it out for all questions")


def _parse(place: str, line: str, name: str, identity: str) -> Question:
    try:
        record = json.loads(line)
        # JSON can spell half of a surrogate pair, which no file and no tokenizer takes.
        json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place} is not valid JSON ({error}), expected one object per line"
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f"{place} is {line.strip()[:40]!r}, expected an object with 'question', 'answerable' "
            "and 'answers'"
        )
    # A field that is null counts as absent.
    record = {key: value for key, value in record.items() if value is not None}
    question = _text(place, record, "question", None)
    answerable = record.get("answerable")
    if not isinstance(answerable, bool):
        raise DataError(f"{place}: 'answerable' is {answerable!r}, expected true or false")
    answers = record.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise DataError(f"{place}: 'answers' is {answers!r}, expected a list of texts")
    if type(record.get("id")) is int:
        record["id"] = str(record["id"])
    return Question(
        id=_text(place, record, "id", identity),
        set=name,
        question=question,
        answerable=answerable,
        answers=tuple(answers),
        prompt=_text(place, record, "prompt", fill_template("unknownbench", question)),
    )


def _text(place: str, record: dict[str, Any], field: str, default: str | None) -> str:
    value = record.get(field, default)
    if not isinstance(value, str) or not value.strip():
        found = "missing" if value is None else repr(value)
        raise DataError(f"{place}: '{field}' is {found}, expected text")
    return value
