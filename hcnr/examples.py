"""Data files and Python lists -> samples -> token ids that know where the response begins."""

import hashlib
import json
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from hcnr.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Message",
    "Sample",
    "SampleSet",
    "TokenCounts",
    "TokenizedSample",
    "TokenizedSet",
    "load_samples",
    "tokenize",
]

# A place in the data ("honesty.jsonl, line 3") and the record found there.
Located = tuple[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Sample:
    """A prompt and the response it should get.

    Attributes:
        prompt: What the model is given; of a chat, its last user turn (for display).
        response: What carries the loss; of a chat, its last turn.
        messages: The whole chat when the record was one, else None.
    """

    prompt: str
    response: str
    messages: tuple[Message, ...] | None = None

    def chat(self) -> list[dict[str, str]]:
        """Return the sample as chat turns; a plain one becomes user + assistant."""
        turns = self.messages or (Message("user", self.prompt), Message("assistant", self.response))
        return [{"role": turn.role, "content": turn.content} for turn in turns]

    def record(self) -> dict[str, Any]:
        """Return the canonical record, as it would stand in a data file."""
        if self.messages is not None:
            return {"messages": self.chat()}
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


@dataclass(frozen=True)
class TokenizedSample:
    """Token ids `[T]` of one sample; positions from `response_start` (at least 1) carry loss."""

    input_ids: tuple[int, ...]
    response_start: int

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class TokenCounts:
    """What tokenising did, for the report."""

    samples: int
    tokens: int
    response_tokens: int
    prompts_truncated: int
    responses_truncated: int
    chat_template: bool


@dataclass(frozen=True)
class TokenizedSet:
    """Tokenised samples in the order of their `SampleSet`; sha256 covers ids and boundaries."""

    samples: tuple[TokenizedSample, ...]
    counts: TokenCounts
    sha256: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [len(sample) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)


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
            last turn is the assistant's; with both, `messages` counts. Other keys are ignored.
        limit: How many samples to use at most.
        shuffle_seed: Take the samples in a shuffled order that depends on the seed and the number
            of samples alone, not on platform or Python version; None takes the first ones.

    Raises:
        DataError: The source, a line or a record cannot be used; names which one and why.
    """
    if limit < 1:
        raise DataError(f"the number of samples to use is {limit}, expected at least 1")
    if isinstance(source, str | os.PathLike):
        name, found = os.fspath(source), _read_file(Path(source))
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
    used = [samples[i] for i in order[:limit]]
    canonical = json.dumps(
        [sample.record() for _, sample in used], sort_keys=True, separators=(",", ":")
    )
    return SampleSet(
        samples=tuple(sample for _, sample in used),
        places=tuple(place for place, _ in used),
        sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        source=name,
        available=len(samples),
    )


def _read_file(path: Path) -> Iterator[Located]:
    """Yield the records of a data file, each with its place."""
    readers: dict[str, Callable[[Path], Iterator[Located]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if not path.exists():
        raise DataError(f"the data file {path} does not exist; check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a .jsonl, .json or .parquet file")
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path} has the unknown extension '{path.suffix}', expected .jsonl, .json or "
            ".parquet; rename or convert it"
        )
    return readers[path.suffix.lower()](path)


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
            columns = [name for name in ("messages", "prompt", "response") if name in present]
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
        return _parse_messages(place, record["messages"])
    texts = []
    for field in ("prompt", "response"):
        # Null counts as absent: parquet files with several kinds of records are full of it.
        if record.get(field) is None:
            keys = ", ".join(repr(key) for key in list(record)[:8]) or "no keys"
            raise DataError(
                f"{place} has no '{field}' (it has {keys}), expected 'prompt' and 'response', or "
                "'messages'"
            )
        texts.append(_text(f"{place}: '{field}'", record[field]))
    prompt, response = texts
    if not response.strip():
        raise DataError(f"{place} has an empty response, expected text; fill it or drop the record")
    return Sample(prompt, response)


def _parse_messages(place: str, messages: Any) -> Sample:
    # A numpy array of turns is what pandas makes of a parquet list.
    if not isinstance(messages, list | tuple | np.ndarray):
        raise DataError(f"{place}: 'messages' is {_kind(messages)}, expected a list of turns")
    turns = []
    for i, message in enumerate(messages, 1):
        if isinstance(message, Message):
            message = {"role": message.role, "content": message.content}
        if not isinstance(message, Mapping):
            raise DataError(
                f"{place}: turn {i} of 'messages' is {_kind(message)}, expected an object with "
                "'role' and 'content'"
            )
        texts = []
        for field in ("role", "content"):
            if message.get(field) is None:
                raise DataError(
                    f"{place}: turn {i} of 'messages' has no '{field}', expected 'role' and "
                    "'content'"
                )
            texts.append(_text(f"{place}: '{field}' of turn {i}", message[field]))
        turns.append(Message(*texts))
    if not turns or turns[-1].role != "assistant":
        found = f"the role {turns[-1].role!r}" if turns else "no turns"
        raise DataError(
            f"{place}: the last turn of 'messages' must be the assistant's response, found {found}"
        )
    if len(turns) == 1:
        raise DataError(
            f"{place}: 'messages' has only the assistant's turn, expected a turn before it"
        )
    if not turns[-1].content.strip():
        raise DataError(f"{place} has an empty response, expected text; fill it or drop the record")
    prompts = [turn.content for turn in turns if turn.role == "user"]
    return Sample(prompts[-1] if prompts else "", turns[-1].content, tuple(turns))


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


def tokenize(
    samples: SampleSet | Sequence[Sample],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int = 1024,
    chat_template: Literal["auto", "never"] = "auto",
) -> TokenizedSet:
    """Turn samples into token ids and say where the loss begins.

    Without a chat template the ids are the prompt with the tokenizer's special tokens (an EOS it
    appends is dropped, or the model would see the turn end before the response), the response
    without them, and EOS; the response and EOS carry loss. With one they are the template's
    rendering, whose last assistant turn carries loss, up to the end of the rendering.

    A sample longer than `max_length` loses the left of its prompt. If the response alone leaves no
    room for one prompt token, from which its first token is predicted, it is cut on the right.

    Args:
        samples: What `load_samples` returned, or samples.
        tokenizer: A transformers tokenizer.
        max_length: Tokens kept of a sample, at least 2.
        chat_template: auto uses the tokenizer's template if it has one.

    Raises:
        DataError: A sample cannot be tokenised in this way; names it and why.
    """
    if max_length < 2:
        raise DataError(
            f"max_length is {max_length}, expected at least 2: a prompt and a response token"
        )
    chosen = samples.samples if isinstance(samples, SampleSet) else samples
    places = (
        samples.places
        if isinstance(samples, SampleSet)
        else [f"sample {i}" for i in range(1, len(chosen) + 1)]
    )
    templated = chat_template == "auto" and bool(tokenizer.chat_template)
    encode = _encode_chat if templated else _plain_encoder(tokenizer)
    cut, prompts_truncated, responses_truncated = [], 0, 0
    for place, sample in zip(places, chosen, strict=True):
        prompt, response = encode(place, sample, tokenizer)
        room = max(1, max_length - len(response))
        prompts_truncated += len(prompt) > room
        responses_truncated += len(response) > max_length - 1
        prompt = prompt[-room:]
        ids = (*prompt, *response[: max_length - len(prompt)])
        cut.append(TokenizedSample(ids, len(prompt)))
    digest = hashlib.sha256()
    for one in cut:
        digest.update(np.array([len(one), one.response_start, *one.input_ids], "<i8").tobytes())
    tokens = sum(len(one) for one in cut)
    counts = TokenCounts(
        samples=len(cut),
        tokens=tokens,
        response_tokens=tokens - sum(one.response_start for one in cut),
        prompts_truncated=prompts_truncated,
        responses_truncated=responses_truncated,
        chat_template=templated,
    )
    return TokenizedSet(tuple(cut), counts, digest.hexdigest())


# (place, sample, tokenizer) -> ids before the loss begins, ids that carry loss; neither empty.
Encoder = Callable[[str, Sample, "PreTrainedTokenizerBase"], tuple[list[int], list[int]]]


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool) -> list[int]:
    # Not verbose: a text beyond the model's length is cut right after, no reason to warn.
    found = tokenizer(text, add_special_tokens=special, verbose=False)
    return list(cast(list[int], found["input_ids"]))


def _plain_encoder(tokenizer: "PreTrainedTokenizerBase") -> Encoder:
    """Return the encoder for a tokenizer without a chat template."""
    eos = cast(int | None, tokenizer.eos_token_id)
    if eos is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token to end a response with; set its eos_token"
        )
    # Asked once of a neutral text: in a sample, a final EOS might also be the prompt's own.
    appends_eos = _ids(tokenizer, "a", special=True)[-1:] == [eos]
    bos = cast(int | None, tokenizer.bos_token_id)
    start = eos if bos is None else bos

    def encode(
        place: str, sample: Sample, tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[list[int], list[int]]:
        if sample.messages and [turn.role for turn in sample.messages] != ["user", "assistant"]:
            roles = ", ".join(turn.role for turn in sample.messages)
            raise DataError(
                f"{place}: a chat with the turns {reprlib.repr(roles)} needs a chat template, "
                "expected one user and one assistant turn; give the tokenizer a chat template "
                "(and do not set chat_template to never)"
            )
        first, *_, last = sample.chat()
        prompt = _ids(tokenizer, first["content"], special=True)
        if appends_eos and prompt[-1:] == [eos]:
            prompt.pop()
        response = _ids(tokenizer, last["content"], special=False)
        if not response:
            raise DataError(
                f"{place}: the tokenizer finds no tokens in the response, expected some"
            )
        return prompt or [start], [*response, eos]

    return encode


def _encode_chat(
    place: str, sample: Sample, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[int]]:
    """Render a chat and split it where the last assistant turn begins."""
    from jinja2 import TemplateError

    def render(turns: list[dict[str, str]], generate: bool) -> list[int]:
        found = tokenizer.apply_chat_template(
            turns, add_generation_prompt=generate, tokenize=True, return_dict=False
        )
        return list(cast(list[int], found))

    chat = sample.chat()
    try:
        full, prompt = render(chat, False), render(chat[:-1], True)
        split = _common_prefix(prompt, full)
        # A generation prompt may open more than the rendered turn has, such as a block of
        # thoughts. The split is still sound while all earlier turns lie before it.
        sound = split == len(prompt) or split >= _common_prefix(
            (history := render(chat[:-1], False)), full
        ) == len(history)
    except (TemplateError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{place}: the tokenizer's chat template refuses this sample ({error}); correct the "
            "sample or set chat_template to never"
        ) from None
    if not sound or split == 0 or split == len(full):
        raise DataError(
            f"{place}: the chat template renders the earlier turns differently once the response "
            "is there, so where the response begins is unknown; expected the first rendering to "
            "begin the second; set chat_template to never or give the tokenizer another template"
        )
    return full[:split], full[split:]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading ids agree."""
    return next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
