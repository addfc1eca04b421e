"""Honesty samples out of one's own questions: what a model answers rightly and what it refuses."""

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.own_questions import check_limit
from hcnr.checkpoint.output import atomic_file
from hcnr.config import RestoreConfig
from hcnr.config.shared import BATCH_SIZE, MAX_NEW_TOKENS
from hcnr.data.formats import parse_record
from hcnr.data.items import Item, Message
from hcnr.data.samples import data_files, sample_records
from hcnr.detectors import DEFAULT, open_detector
from hcnr.directories import check_outside
from hcnr.errors import DataError, OutputError
from hcnr.evaluation.evaluated_models import name_evaluated, opened
from hcnr.evaluation.generation import generate
from hcnr.evaluation.metrics import contains_answer
from hcnr.evaluation.prompts import ChatTemplate, encode_prompts
from hcnr.progress import Stages, Watcher

RIGHT, REFUSED = "answered rightly", "refused"
KEPT = (REFUSED, RIGHT)
"""Outcomes that make a sample: an unanswerable one, an answerable one."""
WRONG, OVERREFUSED = "answered wrongly", "refused, though answerable"
UNREFUSED, UNJUDGED = "answered, though unanswerable", "answered, and no answers to compare with"
UNFINISHED, EMPTY = "not finished within the new tokens", "said nothing"


@dataclass(frozen=True)
class QuestionOutcome:
    """What became of one question.

    Attributes:
        item: the question, as it was read.
        response: what the model said.
        kind: one of `KEPT`, or why the question makes no sample.
    """

    item: Item
    response: str
    kind: str

    def record(self) -> dict[str, Any]:
        """The sample, which can be restored and evaluated with."""
        item, record = self.item, {}
        if item.turns:
            turns = (*item.turns, Message("assistant", self.response))
            record["messages"] = [turn.as_dict() for turn in turns]
        else:
            record["prompt"] = item.prompt
            record["response"] = self.response
        if item.question != item.prompt:
            record["question"] = item.question
        record["answerable"] = self.kind == RIGHT
        if self.kind == RIGHT:
            record["answers"] = list(_accepted(item))
        return {**record, "id": item.id}


@dataclass(frozen=True)
class MadeSamples:
    """What was made.

    Attributes:
        path: the file.
        outcomes: of all questions, in their order.
        detector: what told refusals from answers.
        format: how the questions were read.
    """

    path: Path
    outcomes: tuple[QuestionOutcome, ...]
    detector: str
    format: str

    def counts(self) -> dict[str, int]:
        """Questions by kind of outcome: both of `KEPT`, then the others that occurred."""
        others = (WRONG, OVERREFUSED, UNREFUSED, UNJUDGED, UNFINISHED, EMPTY)
        counts = {kind: len(self.of(kind)) for kind in (*KEPT, *others)}
        return {kind: count for kind, count in counts.items() if count or kind in KEPT}

    def of(self, kind: str) -> list[QuestionOutcome]:
        """The outcomes of a kind."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]


def make_samples(
    model: Any,
    questions: Any,
    out: str | os.PathLike[str],
    *,
    limit: int | None = None,
    detector: str = DEFAULT,
    chat_template: ChatTemplate = "auto",
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    tokenizer: Any = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    watcher: Watcher | None = None,
) -> MadeSamples:
    """Ask a model every question and write the samples that its answers make.

    The responses are the model's own, greedy. A question makes an answerable sample where it is not
    said to be unanswerable and the answer contains an accepted one and is no refusal; it makes an
    unanswerable sample where it is not said to be answerable and the answer is a refusal. Both
    kinds are written in turn, each in the order of the questions, so that the first ones are
    balanced. The same model, questions and settings give the same file.

    Args:
        model: the honest model, BASE: a checkpoint directory, or a model in memory.
        questions: whatever `hcnr.data.samples.load_samples` takes; `answerable` and `answers`
            may be missing, and a `response` is the accepted answer where there are no `answers`.
        out: .jsonl file to write; it appears whole or not at all.
        limit: the first questions only; None for all.
        detector: tells refusals from answers.
        chat_template: auto uses the tokenizer's if it has one.
        batch_size: questions asked at once, at first.
        max_new_tokens: most tokens of an answer; an answer that is not finished makes no sample.
        tokenizer: where the model does not come with one.
        device: where a model from a directory runs.
        dtype: its dtype; auto keeps the checkpoint's.
        overwrite: whether an existing file may be replaced.
        watcher: told about the progress.

    Raises:
        HcnrError: bad input, or no question makes a sample; nothing has been written.
    """
    path, refuses = Path(out), open_detector(detector)
    if path.suffix != ".jsonl":
        raise OutputError(f"the samples are JSON lines, but --out is {path}; end it with .jsonl")
    items = _read(questions, limit)
    config = RestoreConfig.model_validate({"device": device, "dtype": dtype})
    (evaluated,) = name_evaluated([model])
    check_outside(path, [*evaluated.source.read_paths, *data_files(questions)])
    unfinished: set[int] = set()
    with atomic_file(path, overwrite=overwrite) as temporary:
        with (
            opened(evaluated, tokenizer, config) as (network, reader),
            Stages(watcher).stage("answers") as watching,
        ):
            responses = generate(
                network,
                reader,
                encode_prompts([one.turns or one.prompt for one in items], reader, chat_template),
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                names=[item.location for item in items],
                unfinished=unfinished,
                watcher=watching,
            )
        refused = refuses.many(responses, [one.question for one in items])
        outcomes = tuple(
            QuestionOutcome(item, said, _judge(item, said, bool(refusal), i in unfinished))
            for i, (item, said, refusal) in enumerate(zip(items, responses, refused, strict=True))
        )
        formats = " and ".join(dict.fromkeys(one.format for one in items))
        made = MadeSamples(path, outcomes, refuses.name, formats)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(made))
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
    return made


def _read(questions: Any, limit: int | None) -> list[Item]:
    """The questions, all of them checked."""
    check_limit(limit)
    name, records, _ = sample_records(questions)
    items = [parse_record(located) for located in records]
    if not items:
        raise DataError(f"{name} holds no questions, expected at least one")
    for item in items:
        _check(item)
    return items[:limit]


def _check(item: Item) -> None:
    item.check_question()
    if item.answerable and not _accepted(item):
        raise DataError(
            f"{item.location}: an answerable question without 'answers', expected at least one to "
            "compare with; add them, or leave 'answerable' out"
        )


def _accepted(item: Item) -> tuple[str, ...]:
    if item.answers or item.response is None or item.answerable is False:
        return item.answers
    return (item.response,)


def _judge(item: Item, response: str, refused: bool, unfinished: bool) -> str:
    if not response.strip():
        return EMPTY
    if unfinished:
        return UNFINISHED
    if refused:
        return OVERREFUSED if item.answerable else REFUSED
    if item.answerable is False:
        return UNREFUSED
    if not (accepted := _accepted(item)):
        return UNJUDGED
    return RIGHT if contains_answer(response, accepted) else WRONG


def _rows(made: MadeSamples) -> Sequence[dict[str, Any]]:
    """The samples, both kinds in turn."""
    turns = itertools.zip_longest(*(made.of(kind) for kind in KEPT))
    kept = [one for pair in turns for one in pair if one is not None]
    if not kept:
        counts = ", ".join(f"{count} {kind}" for kind, count in made.counts().items())
        raise DataError(
            f"none of the {len(made.outcomes)} questions makes a sample ({counts}); give other "
            "questions, more --max-new-tokens or another --detector"
        )
    return [one.record() for one in kept]
