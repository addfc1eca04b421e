"""Data of any known format -> validated samples of prompt and response."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hcnr.data.files import Located, numbered
from hcnr.data.formats import parse_record
from hcnr.data.items import Item, Message
from hcnr.data.records import Records, open_records
from hcnr.data.starter import STARTER, starter_samples
from hcnr.errors import DataError
from hcnr.hub import HUB


@dataclass(frozen=True)
class Sample:
    """A prompt and the response it should get.

    Attributes:
        prompt: what the model is given; of a chat, its last user turn (for display).
        response: what carries the loss; of a chat, its last turn.
        messages: the whole chat when the record was one, else None.
        tools: tools that the chat's turns may call, for the chat template.
        answerable: False where the response should be a refusal; None where nobody says. Like
            `group` it is for probes, and no part of the record.
        group: what other samples it belongs together with.
    """

    prompt: str
    response: str
    messages: tuple[Message, ...] | None = None
    tools: Sequence[Any] = field(default=(), hash=False)
    answerable: bool | None = None
    group: str | None = None

    @property
    def needs_template(self) -> str | None:
        """What only a chat template can render, such as `tool_calls`; None where nothing is."""
        keys = [key for turn in self.messages or () for key in turn.more]
        return next(iter([*keys, *(["tools"] if self.tools else [])]), None)

    def chat(self) -> list[dict[str, Any]]:
        """Return the sample as chat turns; a plain one becomes user + assistant."""
        turns = self.messages or (Message("user", self.prompt), Message("assistant", self.response))
        return [turn.as_dict() for turn in turns]

    def record(self) -> dict[str, Any]:
        """Return the canonical record, as it would stand in a data file."""
        if self.messages is not None:
            tools = {"tools": list(self.tools)} if self.tools else {}
            return {"messages": self.chat(), **tools}
        return {"prompt": self.prompt, "response": self.response}


@dataclass(frozen=True)
class SampleSet:
    """The samples a run uses.

    Attributes:
        samples: in the order used.
        locations: where each sample came from, for messages about it.
        sha256: of the canonical JSON of `samples`, the same on every platform.
        source: the data file, or a description of the Python list.
        available: how many samples the source held.
        format: the formats of the records used, as recognised.
        filled: how many of the responses come from `answers` or are refusals in hcnr's words.
    """

    samples: tuple[Sample, ...]
    locations: tuple[str, ...]
    sha256: str
    source: str
    available: int
    format: str = ""
    filled: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def description(self) -> str:
        """The format in words, with what was filled in."""
        filled = f"; {self.filled} without a response: the first answer, or a refusal"
        return f"{self.format}{filled if self.filled else ''}"

    def part(self, start: int, stop: int) -> "SampleSet":
        """Some of the samples in a row, as a set of their own."""
        used = self.samples[start:stop]
        return replace(
            self, samples=used, locations=self.locations[start:stop], sha256=_canonical_hash(used)
        )


def load_samples(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any] | Sample],
    *,
    limit: int = 128,
    shuffle_seed: int | None = None,
) -> SampleSet:
    """Read, validate and choose samples.

    Every record of the source is validated, also those that `limit` leaves out.

    Args:
        source: a .jsonl, .json (a list, or JSON lines), .csv or .parquet file, `starter`, a data
            set of the `datasets` library (an object, its directory, or `hf:NAME`), or records in
            Python. docs/data.md lists the formats that a record may have; further keys of a turn,
            and a chat's `tools`, go to the chat template, other keys are ignored. A record without
            a response takes the first of its `answers`, or, where `answerable` is false, a refusal;
            `filled` counts these.
        limit: how many samples to use at most.
        shuffle_seed: take the samples in a shuffled order that depends on the seed and the number
            of samples alone, not on platform or Python version; None takes the first ones.

    Raises:
        DataError: the source, a line or a record cannot be used; names which one and why.
    """
    if limit < 1:
        raise DataError(f"the number of samples to use is {limit}, expected at least 1")
    name, records, _ = sample_records(source)
    samples = [_sample(located) for located in records]
    if not samples:
        raise DataError(f"{name} holds no samples, expected at least one prompt with a response")
    chosen = [samples[i] for i in sample_order(len(samples), shuffle_seed)[:limit]]
    used = tuple(sample for _, sample in chosen)
    return SampleSet(
        samples=used,
        locations=tuple(item.location for item, _ in chosen),
        sha256=_canonical_hash(used),
        source=name,
        available=len(samples),
        format=" and ".join(dict.fromkeys(item.format for item, _ in chosen)),
        filled=sum(item.response is None for item, _ in chosen),
    )


def sample_order(count: int, shuffle_seed: int | None) -> list[int]:
    """Places of samples in the order in which they are taken: as they come, or shuffled."""
    order = list(range(count))
    if shuffle_seed is not None:
        # Sorting by a hash, because random.shuffle may differ between Python versions.
        order.sort(key=lambda i: hashlib.sha256(f"{shuffle_seed}:{i}".encode()).digest())
    return order


def data_files(*sources: Any) -> list[Path]:
    """Those of the sources that are places in the file system, as an output must not be."""
    return [
        Path(source).expanduser()
        for source in sources
        if isinstance(source, str | os.PathLike)
        and source != STARTER
        and not os.fspath(source).startswith(HUB)
    ]


def sample_records(source: Any) -> Records:
    """Open what samples may come from, the starter set included."""
    if isinstance(source, str) and source == STARTER:
        return Records(STARTER, numbered(STARTER, starter_samples()))
    return open_records(source)


def _sample(located: Located) -> tuple[Item, Sample]:
    """A record and the sample it makes."""
    if isinstance(located.record, Sample):
        record = {**located.record.record(), "answerable": located.record.answerable}
        located = located._replace(record={**record, "group": located.record.group})
    item = parse_record(located)
    last = item.reply or Message("assistant", _fill(item))
    messages = (*item.turns, last) if item.turns else None
    return item, Sample(
        item.prompt, last.content, messages, item.tools, item.answerable, item.group
    )


def _fill(item: Item) -> str:
    """The response of a record that has none: an accepted answer, or a refusal."""
    if item.answerable is False:
        from hcnr.data.refusals import refusal

        return refusal(item.question)
    if item.answers:
        return item.answers[0]
    if "messages" in item.fields or "conversations" in item.fields:
        name = "messages" if "messages" in item.fields else "conversations"
        last = f"the role {item.turns[-1].role!r}" if item.turns else "no turns"
        raise DataError(
            f"{item.location}: the last turn of '{name}' must be the assistant's response, found "
            f"{last}"
        )
    keys = ", ".join(repr(key) for key in list(item.fields)[:8])
    raise DataError(
        f"{item.location} has no 'response' (it has {keys}), expected 'prompt' and 'response', "
        "'messages', or another format of docs/data.md"
    )


def _canonical_hash(samples: Iterable[Sample]) -> str:
    records = [sample.record() for sample in samples]
    canonical = json.dumps(records, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
