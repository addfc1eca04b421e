"""Data files and Python lists -> validated samples of prompt and response."""

import hashlib
import json
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hcnr import plugins
from hcnr.errors import DataError, HcnrError

__all__ = [
    "Message",
    "Sample",
    "SampleSet",
    "load_samples",
    "read_file",
]

# What a record may hold; `answerable` and `group` are for probes.
COLUMNS = ("messages", "tools", "prompt", "response", "answerable", "group")

# A place in the data ("honesty.jsonl, line 3") and the record found there.
Located = tuple[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: Whose turn it is.
        content: What is said; empty where the turn only calls tools.
        more: Other keys of the turn, such as `tool_calls`; for the chat template.
    """

    role: str
    content: str
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Sample:
    """A prompt and the response it should get.

    Attributes:
        prompt: What the model is given; of a chat, its last user turn (for display).
        response: What carries the loss; of a chat, its last turn.
        messages: The whole chat when the record was one, else None.
        tools: Tools that the chat's turns may call, for the chat template.
    """

    prompt: str
    response: str
    messages: tuple[Message, ...] | None = None
    tools: Sequence[Any] = field(default=(), hash=False)

    @property
    def needs_template(self) -> str | None:
        """What only a chat template can render, such as `tool_calls`; None where nothing is."""
        keys = [key for turn in self.messages or () for key in turn.more]
        return next(iter([*keys, *(["tools"] if self.tools else [])]), None)

    def chat(self) -> list[dict[str, Any]]:
        """Return the sample as chat turns; a plain one becomes user + assistant."""
        turns = self.messages or (Message("user", self.prompt), Message("assistant", self.response))
        return [{"role": turn.role, "content": turn.content, **turn.more} for turn in turns]

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
        samples: In the order used.
        places: Where each sample came from, for messages about it.
        sha256: Of the canonical JSON of `samples`, the same on every platform.
        source: The data file, or a description of the Python list.
        available: How many samples the source held.
    """

    samples: tuple[Sample, ...]
    places: tuple[str, ...]
    sha256: str
    source: str
    available: int

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, start: int, stop: int) -> "SampleSet":
        """Some of the samples in a row, as a set of their own."""
        used = self.samples[start:stop]
        return replace(
            self, samples=used, places=self.places[start:stop], sha256=_canonical_hash(used)
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
        source: A .jsonl, .json (a list, or JSON lines) or .parquet file, or records in Python. A
            record is `{"prompt", "response"}` or `{"messages": [{"role", "content"}, ...]}` whose
            last turn is the assistant's; with both, `messages` counts. Turns may have further
            keys, and a chat `tools`, which are the chat template's; other keys are ignored.
        limit: How many samples to use at most.
        shuffle_seed: Take the samples in a shuffled order that depends on the seed and the number
            of samples alone, not on platform or Python version; None takes the first ones.

    Raises:
        DataError: The source, a line or a record cannot be used; names which one and why.
    """
    if limit < 1:
        raise DataError(f"the number of samples to use is {limit}, expected at least 1")
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        name, found = str(path), read_file(path)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        name = "the given list"
        found = ((f"{name}, record {i}", record) for i, record in enumerate(source, 1))
    else:
        raise DataError(
            f"samples come as a {type(source).__name__}, expected a path or a list of records; "
            "put a single record into a list"
        )
    samples = [(place, _parse(place, record)) for place, record in found]
    if not samples:
        raise DataError(f"{name} holds no samples, expected at least one prompt with a response")
    order = list(range(len(samples)))
    if shuffle_seed is not None:
        # Sorting by a hash, because random.shuffle may differ between Python versions.
        order.sort(key=lambda i: hashlib.sha256(f"{shuffle_seed}:{i}".encode()).digest())
    places, used = zip(*(samples[i] for i in order[:limit]), strict=True)
    return SampleSet(
        samples=used,
        places=places,
        sha256=_canonical_hash(used),
        source=name,
        available=len(samples),
    )


def _canonical_hash(samples: Iterable[Sample]) -> str:
    records = [sample.record() for sample in samples]
    canonical = json.dumps(records, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_file(path: Path) -> Iterator[Located]:
    """Yield the records of a data file, each with its place.

    An extension that is not ours is looked up, without its dot and in lower case, in the entry
    points `hcnr.readers`: a function from a path to records, each a mapping.

    Raises:
        DataError: the file cannot be read; names the place and the cause.
        ConfigError: the extension is registered, but not by one function that can be imported.
    """
    readers: dict[str, Callable[[Path], Iterator[Located]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if not path.exists():
        raise DataError(f"the data file {path} does not exist; check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a .jsonl, .json or .parquet file")
    extension = path.suffix.lower()
    if extension in readers:
        return readers[extension](path)
    if extension and (plugin := plugins.load("hcnr.readers", extension[1:])) is not None:
        return _read_by(plugin, path)
    known = [*readers, *(f".{name}" for name in plugins.names("hcnr.readers"))]
    raise DataError(
        f"{path} has the unknown extension '{path.suffix}', expected {', '.join(known[:-1])} or "
        f"{known[-1]}; rename or convert it"
    )


def _read_by(plugin: Callable[[Path], Iterable[Any]], path: Path) -> Iterator[Located]:
    """Records of another package's reader; what it raises is explained."""
    number = 0
    try:
        for number, record in enumerate(plugin(path), 1):
            yield f"{path}, record {number}", record
    except HcnrError:
        raise
    except Exception as error:  # whatever the other package raises
        raise DataError(
            f"{path} cannot be read after record {number} by the reader of {path.suffix} files "
            f"that another package registers ({type(error).__name__}: {error}); check the file"
        ) from error


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, with or without a byte order mark."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the data file {path} cannot be read ({error.strerror})") from None
    lines = []
    # Split bytes, not text: str.splitlines would also cut at U+2028 inside a JSON string.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise DataError(
                f"{path}, line {number} is not valid UTF-8; save the file as UTF-8"
            ) from None
    return lines


def _read_jsonl(path: Path) -> Iterator[Located]:
    return _parse_lines(path, _read_lines(path))


def _parse_lines(path: Path, lines: list[str]) -> Iterator[Located]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{place} is not valid JSON ({_json_reason(error)}), expected one record per "
                    'line such as {"prompt": "...", "response": "..."}'
                ) from None


def _read_json(path: Path) -> Iterator[Located]:
    """Read a list of records; what is no single JSON value may still be JSON lines."""
    lines = _read_lines(path)
    try:
        whole = json.loads("\n".join(lines))
    except (ValueError, RecursionError) as error:
        # What fails after one complete value is one value per line.
        if str(error).startswith("Extra data") or not "".join(lines).strip():
            return _parse_lines(path, lines)
        at = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{path}{at} is not valid JSON ({_json_reason(error)}), expected a list of records"
        ) from None
    records = [whole] if isinstance(whole, dict) else whole
    if not isinstance(records, list):
        raise DataError(
            f"{path} holds {_kind(whole)}, expected a list of records or one record per line"
        )
    return iter([(f"{path}, record {i}", record) for i, record in enumerate(records, 1)])


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]


def _read_parquet(path: Path) -> Iterator[Located]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path} is a parquet file and pyarrow is not installed; run pip install "
            "'hcnr[parquet]' or convert it to .jsonl"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            columns = [name for name in COLUMNS if name in present]
            # Without the columns of interest the first record explains what is missing.
            rows = file.read(columns=columns or None).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise DataError(f"{path} is not a readable parquet file ({reason})") from None
    return iter([(f"{path}, record {i}", row) for i, row in enumerate(rows, 1)])


def _parse(place: str, record: Any) -> Sample:
    """Validate one record."""
    if isinstance(record, Sample):
        record = record.record()
    if not isinstance(record, Mapping):
        raise DataError(
            f"{place} is {_kind(record)}, expected an object with 'prompt' and 'response', or "
            "with 'messages'"
        )
    if record.get("messages") is not None:
        return _parse_messages(place, record["messages"], record.get("tools"))
    texts = []
    for name in ("prompt", "response"):
        # Null counts as absent: parquet files with several kinds of records are full of it.
        if record.get(name) is None:
            keys = ", ".join(repr(key) for key in list(record)[:8]) or "no keys"
            raise DataError(
                f"{place} has no '{name}' (it has {keys}), expected 'prompt' and 'response', or "
                "'messages'"
            )
        texts.append(_text(f"{place}: '{name}'", record[name]))
    prompt, response = texts
    if not response.strip():
        raise DataError(f"{place} has an empty response, expected text; fill it or drop the record")
    return Sample(prompt, response)


def _parse_messages(place: str, messages: Any, tools: Any = None) -> Sample:
    # A numpy array of turns is what pandas makes of a parquet list.
    if not isinstance(messages, list | tuple | np.ndarray):
        raise DataError(f"{place}: 'messages' is {_kind(messages)}, expected a list of turns")
    turns = []
    for i, message in enumerate(messages, 1):
        if isinstance(message, Message):
            message = {"role": message.role, "content": message.content, **message.more}
        if not isinstance(message, Mapping):
            raise DataError(
                f"{place}: turn {i} of 'messages' is {_kind(message)}, expected an object with "
                "'role' and 'content'"
            )
        # Null counts as absent, here too.
        more = {
            str(key): value
            for key, value in message.items()
            if key not in ("role", "content") and value is not None
        }
        texts = []
        for name in ("role", "content"):
            value = message.get(name)
            if value is None and name == "content" and more.get("tool_calls"):
                value = ""
            if value is None:
                raise DataError(
                    f"{place}: turn {i} of 'messages' has no '{name}', expected 'role' and "
                    "'content'"
                )
            texts.append(_text(f"{place}: '{name}' of turn {i}", value))
        turns.append(Message(texts[0], texts[1], more))
    if not turns or turns[-1].role != "assistant":
        found = f"the role {turns[-1].role!r}" if turns else "no turns"
        raise DataError(
            f"{place}: the last turn of 'messages' must be the assistant's response, found {found}"
        )
    if len(turns) == 1:
        raise DataError(
            f"{place}: 'messages' has only the assistant's turn, expected a turn before it"
        )
    if not turns[-1].content.strip() and not turns[-1].more.get("tool_calls"):
        raise DataError(f"{place} has an empty response, expected text; fill it or drop the record")
    prompts = [turn.content for turn in turns if turn.role == "user"]
    if tools is None:
        tools = []
    if not isinstance(tools, list | tuple | np.ndarray):
        raise DataError(f"{place}: 'tools' is {_kind(tools)}, expected a list of tools")
    prompt = prompts[-1] if prompts else ""
    return Sample(prompt, turns[-1].content, tuple(turns), tuple(tools))


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} is {_kind(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair; no tokenizer can read it.
        raise DataError(
            f"{what} holds a lone surrogate such as \\ud800, expected valid Unicode text"
        ) from None
    return value


def _kind(value: Any) -> str:
    """Describe a value of the wrong type, shortly."""
    return "null" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"
