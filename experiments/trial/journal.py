"""What was evaluated so far, line by line: an interrupted trial goes on where it stopped."""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from experiments.trial.metrics import Metrics, read_metrics
from experiments.trial.text_data import Split
from hcnr.errors import OutputError

_Entries = dict[tuple[str, str], tuple[Metrics, float]]


class _Line(BaseModel):
    """One candidate on one split, as it is written; the file has its older words for both."""

    candidate: str
    split: Split = Field(alias="part")
    metrics: Annotated[
        Metrics, BeforeValidator(lambda one: dataclasses.asdict(read_metrics(one)))
    ] = Field(alias="marks")
    seconds: float


class Journal:
    """Metrics by candidate and split, in a file of JSON lines that belongs to one pair.

    A line is added as soon as a candidate is evaluated, and nothing is ever written elsewhere.
    """

    def __init__(self, path: Path, file: IO[bytes], entries: _Entries) -> None:
        """Take over a file that is open at its end; use `open_journal`."""
        self._path, self._file, self._entries = path, file, entries

    def get(self, candidate: str, split: Split) -> tuple[Metrics, float] | None:
        """Metrics and seconds of a candidate, if it was evaluated on that split."""
        return self._entries.get((candidate, split))

    def add(self, candidate: str, split: Split, metrics: Metrics, seconds: float) -> None:
        """Keep what was found; it survives the process from here on.

        Raises:
            OutputError: It cannot be written.
        """
        line = {
            "candidate": candidate,
            "part": split,
            "marks": metrics.as_dict(),
            "seconds": seconds,
        }
        with _explained(self._path, "written to"):
            self._file.write(_bytes(line))
            self._file.flush()
        self._entries[candidate, split] = metrics, seconds


@contextlib.contextmanager
def open_journal(path: Path, pair: str) -> Iterator[Journal]:
    """Open the journal of a pair, or begin it; a last line that was cut short is cut off.

    It is locked meanwhile, and the kernel frees it when a process dies.

    Args:
        path: The file; its directory exists.
        pair: Digest of everything that metrics depend on beside the candidate.

    Raises:
        OutputError: Another process is at it, it is about another pair, or it is not what a trial
            writes.
    """
    with contextlib.ExitStack() as stack:
        with _explained(path, "opened"):
            file = open(path, "a+b")  # noqa: SIM115
            stack.callback(_close, path, file)
            _lock(path, file)
            file.seek(0)
            content = file.read()
        lines = content[: content.rfind(b"\n") + 1]
        head = _bytes({"pair": pair})
        # Without a first line only the beginning of one is ours; anything else is somebody's file.
        if not lines and not head.startswith(content):
            raise _not_ours(path, 1)
        entries = _read(path, lines, pair)
        with _explained(path, "written to"):
            file.truncate(len(lines))
            if not lines:
                file.write(head)
                file.flush()
        yield Journal(path, file, entries)


def _read(path: Path, content: bytes, pair: str) -> _Entries:
    """The whole lines of a journal."""
    entries: _Entries = {}
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            if number == 1:
                _check_pair(path, json.loads(text)["pair"], pair)
            else:
                line = _Line.model_validate(json.loads(text))
                entries[line.candidate, line.split] = line.metrics, line.seconds
        except (ValueError, LookupError, TypeError, RecursionError):
            raise _not_ours(path, number) from None
    return entries


def _check_pair(path: Path, written_pair: Any, pair: str) -> None:
    if not isinstance(written_pair, str):
        raise TypeError
    if written_pair != pair:
        raise OutputError(
            f"{path} holds the trial of another pair, expected that of {pair}; choose another "
            "--out, or remove the old trial"
        )


def _lock(path: Path, file: IO[bytes]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"another process is running the seed of {path} right now, expected one at a time; "
            "wait for it to end, or choose other seeds"
        ) from None


def _close(path: Path, file: IO[bytes]) -> None:
    """On a full disk, closing fails like the writing before it."""
    with _explained(path, "written to"):
        file.close()


@contextlib.contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"the journal {path} cannot be {done} ({reason}), expected a file that takes lines; "
            "choose another --out"
        ) from None


def _not_ours(path: Path, number: int) -> OutputError:
    return OutputError(
        f"{path}, line {number} is not what a trial writes there, expected a line of its journal; "
        "choose another --out, or remove the file if it is no longer needed"
    )


def _bytes(line: dict[str, Any]) -> bytes:
    return (json.dumps(line) + "\n").encode()
