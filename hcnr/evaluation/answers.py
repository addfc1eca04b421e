"""The answers of one model, kept as they come: a run that was cut short goes on where it was.

The first line names the model and what its answers depend on; every other line is one answer, with
its question, so that the file can be scored again (`hcnr evaluate --responses`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from hcnr.benchmarks.questions import Question
from hcnr.errors import OutputError

FORMAT = 1
HEADER = "hcnr_answers"
KEPT = ("set", "id", "prompt_sha256", "response")

# Set, id and the hash of the prompt's tokens.
Key = tuple[str, str, str]


def prompt_hash(ids: Sequence[int]) -> str:
    """16 hexadecimal digits of the SHA-256 of a prompt's token ids."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()[:16]


class AnswerFile:
    """Answers that are known, and a place to write further ones.

    Attributes:
        path: the file.
        known: the answers that it holds.
    """

    def __init__(self, path: Path, file: IO[bytes], known: dict[Key, str]) -> None:
        """Take over a file that is open at its end; use `open_answers`."""
        self.path, self.known, self._file = path, known, file

    def add(self, key: Key, question: Question, response: str, *, task: bool) -> None:
        """Append one answer; it survives the process from here on."""
        record = {
            "set": key[0],
            "id": key[1],
            "prompt_sha256": key[2],
            "question": question.question,
            "answerable": question.answerable,
            "answers": list(question.answers),
            "task": task,
            "response": response,
        }
        self._file.write(_line(record))
        self._file.flush()
        self.known[key] = response


@contextlib.contextmanager
def open_answers(path: Path, facts: dict[str, Any]) -> Iterator[AnswerFile]:
    """Open the answers of one model, or begin them; a torn last line is dropped.

    Args:
        path: where they are, or will be.
        facts: what the answers depend on: the model's hash and settings.

    Raises:
        OutputError: another run is writing them, they belong to another model or to other
            settings, or the file is something else.
    """
    header = _line({HEADER: FORMAT, **facts})
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another run is writing {path} right now; wait for it to end, or use another --out"
            ) from None
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        known = _parse(path, whole, facts)
        # Without a header only a torn one is ours; anything else is somebody's file.
        if not whole and not header.startswith(content):
            raise OutputError(_not_ours(path, 1))
        file.truncate(len(whole))
        if not whole:
            file.write(header)
            file.flush()
        yield AnswerFile(path, file, known)
        os.fsync(file.fileno())


def _parse(path: Path, content: bytes, facts: dict[str, Any]) -> dict[Key, str]:
    known: dict[Key, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record = json.loads(line)
            if number == 1:
                _check_header(path, record, facts)
            else:
                *key, text = (record[name] for name in KEPT)
                if not all(isinstance(one, str) for one in (*key, text)):
                    raise ValueError
                known[key[0], key[1], key[2]] = text
        except (ValueError, KeyError, TypeError, RecursionError):
            raise OutputError(_not_ours(path, number)) from None
    return known


def _not_ours(path: Path, number: int) -> str:
    return (
        f"{path}, line {number} is not what hcnr writes there; delete the file or use another --out"
    )


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "a+b")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be opened ({error.strerror}); use another --out"
        ) from None


def _check_header(path: Path, header: dict[str, Any], facts: dict[str, Any]) -> None:
    if header[HEADER] != FORMAT:
        raise ValueError
    for name, value in facts.items():
        if header.get(name) != value:
            raise OutputError(
                f"{path} holds answers with {name} {header.get(name)!r}, and this run has "
                f"{value!r}; delete the file or use another --out"
            )


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=True) + "\n").encode("ascii")
