"""Answers that another system produced: read, checked, scored."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hcnr.benchmarks.questions import Question
from hcnr.config import EvaluateConfig
from hcnr.config.evaluate import Pooling
from hcnr.config.shared import RESAMPLES
from hcnr.detectors import OF_SETS
from hcnr.detectors.traits import Trait, open_trait
from hcnr.directories import make_directory
from hcnr.errors import DataError
from hcnr.evaluation.answers import HEADER
from hcnr.evaluation.question_sets import make_question_sets
from hcnr.evaluation.results import assemble, write_metrics
from hcnr.evaluation.scoring import SetScores

Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
Responses = dict[str, list[tuple[Question, str]]]


def score_responses(
    responses: Rows,
    detector: str | None = None,
    out: str | Path | None = None,
    *,
    against: Rows | None = None,
    trait: str | Trait = "honesty",
    encoder: Any = None,
    pooling: Pooling = "auto",
    strict: bool = False,
    compat: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score answers that another system produced.

    Args:
        responses: a jsonl file or objects, see `hcnr.evaluation.responses.read_responses`.
        detector: judges every set; by default each set by its own (see `make_question_sets`).
        out: directory for `metrics.json`; None writes nothing.
        against: a second system's answers to the same questions (by id), to compare with.
        trait: `honesty`, `safety`, or a `Trait`.
        encoder: sentence encoder for `selfaware`.
        pooling: of a transformers encoder.
        strict: do not treat typographic apostrophes as plain ones.
        compat: count as the benchmarks' own code.
        resamples: of the bootstrap; 0 leaves out all intervals.
        seed: of the bootstrap.

    Returns:
        What `metrics.json` holds, see `hcnr.record.files.evaluation.EvaluationRecord`, without
        what a model would have to be asked for.

    Raises:
        HcnrError: bad input; nothing has been written.
    """
    from hcnr.versions import versions

    settings = EvaluateConfig(
        detector=detector, encoder=encoder, pooling=pooling, strict=strict, compat=compat,
        trait=trait, resamples=resamples, seed=seed,
    )  # fmt: skip
    words = open_trait(trait)
    systems = {_label(responses, "responses"): read_responses(responses)}
    if against is not None:
        (first,) = systems.values()
        label = _label(against, "against")
        label = f"{label} (against)" if label in systems else label
        systems[label] = _in_order_of(first, read_responses(against), label)
    scores: dict[str, SetScores] = {}
    common: dict[str, SetScores] = {}
    notes: list[str] = []
    for label, read in systems.items():
        questions = {name: tuple(q for q, _ in pairs) for name, pairs in read.items()}
        question_sets = make_question_sets(
            {name: some for name, some in questions.items() if not some[0].task},
            {name: some for name, some in questions.items() if some[0].task},
            {name: OF_SETS[name] for name in questions if name in OF_SETS},
            words,
            settings,
        )
        texts = {name: [text for _, text in pairs] for name, pairs in read.items()}
        scores[label] = question_sets.score(texts)
        if (shared := question_sets.score_common(texts)) is not None:
            common[label] = shared
        notes = question_sets.notes
    label, *rest = scores
    record = assemble(
        label, scores[label], {one: scores[one] for one in rest}, common, words,
        notes=[*notes, *scores[label].notes()],
        settings={"detector": detector, "strict": strict, "compat": compat, "seed": seed,
                  "resamples": resamples},
        versions=versions(),
    )  # fmt: skip
    if out is not None:
        write_metrics(make_directory(out), record)
    return record.as_dict()


def read_responses(source: Rows) -> Responses:
    """Read responses, one object per line or element.

    An object has `question` (text), `answerable` (true or false) and `response` (text, empty where
    nothing was said); it may have `answers` (accepted ones), `set` (default: `responses`), `id`
    (unique in its set; all or none have one) and `task` (true where the set measures the task).
    The answers that `hcnr evaluate` keeps of a model are such a file; of several answers to one
    question, which differ in the prompt, the last one counts there.

    Args:
        source: a jsonl file, or objects.

    Returns:
        Set -> questions with their responses, in the order read.

    Raises:
        DataError: a line cannot be used, ids are missing or repeated, or there is nothing.
    """
    sets: dict[str, dict[str, tuple[Question, str]]] = {}
    locations: dict[tuple[str, str], str] = {}
    with_id: str | None = None
    without_id: str | None = None
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the given responses"
    kept = _is_kept(source)
    for number, (location, record) in enumerate(_records(source, name), 1):
        question, response = _parse(location, number, record)
        if record.get("id") is None:
            without_id = without_id or location
        else:
            with_id = with_id or location
        if with_id and without_id:
            raise DataError(
                f"{without_id} has no 'id' while {with_id} has one; give every response an id, or "
                "none"
            )
        key = question.set, question.id
        if key in locations and not kept:
            raise DataError(
                f"{location} repeats the id {question.id!r} of {locations[key]} in the set "
                f"{question.set!r}; ids must be unique in a set"
            )
        locations[key] = location
        members = sets.setdefault(question.set, {})
        if members and next(iter(members.values()))[0].task != question.task:
            raise DataError(f"{location}: 'task' differs from the rest of the set {question.set!r}")
        members[question.id] = question, response
    if not sets:
        raise DataError(
            f"{name} holds no responses, expected one object per line with 'question', "
            "'answerable' and 'response'"
        )
    return {name: list(members.values()) for name, members in sets.items()}


def _is_kept(source: Rows) -> bool:
    """Whether hcnr wrote the file: of a question asked in several ways the last answer counts."""
    if not isinstance(source, str | os.PathLike):
        return False
    try:
        with open(source, "rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and HEADER in header


def _records(source: Rows, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(source, str | os.PathLike):
        if isinstance(source, Mapping) or not isinstance(source, Iterable):
            raise DataError(
                f"responses come as a {type(source).__name__}, expected a path or a list of objects"
            )
        yield from ((f"{name}, element {i}", record) for i, record in enumerate(source, 1))
        return
    try:
        content = Path(source).expanduser().read_bytes()
    except OSError as error:
        raise DataError(
            f"the responses {name} cannot be read ({error.strerror}); check the path"
        ) from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        location = f"{name}, line {number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{location} is not valid JSON ({str(error).splitlines()[0]}), expected one object "
                "per line with 'question', 'answerable' and 'response'"
            ) from None
        if not (number == 1 and isinstance(record, dict) and HEADER in record):
            yield location, record


def _parse(location: str, number: int, record: Any) -> tuple[Question, str]:
    if not isinstance(record, Mapping):
        raise DataError(
            f"{location} is {record!r}, expected an object with 'question', 'answerable' and "
            "'response'"
        )
    for key, kind, words in (
        ("question", str, "text"),
        ("answerable", bool, "true or false"),
        ("response", str, "text, empty where nothing was said"),
    ):
        if not isinstance(record.get(key), kind):
            value = f"{record[key]!r} as" if key in record else "no"
            raise DataError(f"{location} has {value} '{key}', expected {words}")
    answers = record.get("answers")
    answers = [] if answers is None else [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list | tuple) or not all(
        isinstance(answer, str) for answer in answers
    ):
        raise DataError(f"{location} has {answers!r} as 'answers', expected a list of texts")
    identity, name = record.get("id"), record.get("set")
    if identity is not None and (isinstance(identity, bool) or not isinstance(identity, str | int)):
        raise DataError(f"{location} has {identity!r} as 'id', expected text or a whole number")
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise DataError(f"{location} has {name!r} as 'set', expected text")
    # JSON can spell half of a surrogate pair, which can be neither hashed nor printed.
    if not _is_unicode(name or ""):
        raise DataError(
            f"{location} has half of a surrogate pair in the 'set' {name!r}, expected whole "
            "characters"
        )
    if not isinstance(record.get("task", False), bool):
        raise DataError(f"{location} has {record['task']!r} as 'task', expected true or false")
    return Question(
        id=str(number if identity is None else identity),
        set=name or "responses",
        question=record["question"],
        answerable=record["answerable"],
        answers=tuple(answers),
        prompt=record["question"],
        task=record.get("task", False),
    ), record["response"]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_order_of(first: Responses, second: Responses, label: str) -> Responses:
    """Put a second system's responses into the order of the first's, by set and id."""
    ordered: Responses = {}
    theirs = {(name, q.id): (q, text) for name, pairs in second.items() for q, text in pairs}
    ours = {(name, q.id): q for name, pairs in first.items() for q, _ in pairs}
    if odd := sorted(ours.keys() ^ theirs.keys()):
        where = "lacks" if odd[0] in ours else "has"
        raise DataError(
            f"{label} {where} the question {odd[0][1]!r} of the set {odd[0][0]!r}, unlike the "
            "responses it is compared with; both must answer the same questions, paired by id"
        )
    for (name, identity), question in ours.items():
        other, text = theirs[name, identity]
        if (other.question, other.answerable) != (question.question, question.answerable):
            raise DataError(
                f"the question {identity!r} of the set {name!r} differs between {label} and the "
                "responses it is compared with; the same id must be the same question"
            )
        ordered.setdefault(name, []).append((question, text))
    return ordered


def _label(source: Rows, otherwise: str) -> str:
    return Path(source).stem if isinstance(source, str | os.PathLike) else otherwise
