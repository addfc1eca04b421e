"""Data files of each extension -> records with their locations."""

import csv
import io
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hcnr import plugins
from hcnr.errors import DataError, HcnrError
from hcnr.hub import HUB

EXTENSIONS = (".jsonl", ".json", ".parquet", ".csv")

# What a record may hold (`hcnr.data.formats`); a parquet file's other columns are not read.
COLUMNS = (
    "messages", "conversations", "tools", "prompt", "instruction", "input", "history", "question",
    "system", "response", "completion", "output", "answer", "answers", "answerable", "group", "id",
    "context", "choices", "options",
)  # fmt: skip

# Cells of a csv file that hold more than a text.
_JSON_CELLS = ("messages", "conversations", "history", "answers")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Located(NamedTuple):
    """A record as it was found.

    Attributes:
        location: for messages, such as "honesty.jsonl, line 3".
        number: of the line or record, from 1.
        record: anything.
    """

    location: str
    number: int
    record: Any


def numbered(name: str, records: Iterable[Any]) -> Iterator[Located]:
    """Give each record of a list its location."""
    return (Located(f"{name}, record {i}", i, one) for i, one in enumerate(records, 1))


def extensions() -> tuple[str, ...]:
    """Of the files that can be read: ours, and those that other packages register."""
    return (*EXTENSIONS, *(f".{name}" for name in plugins.names("hcnr.readers")))


def check_file(path: Path) -> None:
    """Raise DataError unless `path` is a file whose extension is known."""
    if not path.exists():
        hint = f"check the path{_hub_hint(path)}"
        raise DataError(f"the data file {path} does not exist; {hint}")
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a {_listed()} file")
    if path.suffix.lower() not in extensions():
        raise DataError(
            f"{path} has the unknown extension '{path.suffix}', expected {_listed()}; rename or "
            "convert it"
        )


def _listed() -> str:
    *first, last = extensions()
    return f"{', '.join(first)} or {last}"


def _hub_hint(path: Path) -> str:
    """A word about the hub, where a missing path looks like a name there."""
    looks = len(path.parts) == 2 and not path.is_absolute() and not path.suffix
    return f", or write {HUB}{path} for a data set of the Hugging Face hub" if looks else ""


def read_file(path: Path) -> Iterator[Located]:
    """Yield the records of a data file, each with its location.

    An extension that is not ours is looked up, without its dot and in lower case, in the entry
    points `hcnr.readers`: a function from a path to records, each a mapping.

    Raises:
        DataError: the file cannot be read; names the location and the cause.
        ConfigError: the extension is registered, but not by one function that can be imported.
    """
    readers: dict[str, Callable[[Path], Iterator[Located]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
        ".csv": _read_csv,
    }
    check_file(path)
    extension = path.suffix.lower()
    if extension in readers:
        return readers[extension](path)
    return _read_by(plugins.load("hcnr.readers", extension[1:]), path)


def _read_by(plugin: Callable[[Path], Iterable[Any]], path: Path) -> Iterator[Located]:
    """Records of another package's reader; what it raises is explained."""
    number = 0
    try:
        for number, record in enumerate(plugin(path), 1):
            yield Located(f"{path}, record {number}", number, record)
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
        raise DataError(
            f"the data file {path} cannot be read ({error.strerror}); check its permissions"
        ) from None
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
            location = f"{path}, line {number}"
            try:
                yield Located(location, number, json.loads(line))
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{location} is not valid JSON ({_json_reason(error)}), expected one record "
                    "per "
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
            f"{path} holds {kind_of(whole)}, expected a list of records or one record per line"
        )
    return numbered(str(path), records)


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
        raise DataError(
            f"{path} is not a readable parquet file ({reason}); write or download it again"
        ) from None
    return numbered(str(path), rows)


def _read_csv(path: Path) -> Iterator[Located]:
    """Read a table with a head; an empty cell counts as absent."""
    text = io.StringIO("\n".join(_read_lines(path)), newline="")
    rows = csv.reader(text, strict=True)
    head: list[str] | None = None
    end = 0
    try:
        for row in rows:
            number, end = end + 1, rows.line_num
            location = f"{path}, line {number}"
            if not any(cell.strip() for cell in row):
                continue
            if head is None:
                head = _csv_head(path, row)
            elif len(row) != len(head):
                raise DataError(
                    f"{location} has {len(row)} cells, expected {len(head)} as in the head; quote "
                    "cells that hold commas"
                )
            else:
                cells = {k: _cell(k, v) for k, v in zip(head, row, strict=True) if v.strip()}
                yield Located(location, number, cells)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {end + 1} is not valid csv ({error}); correct the quotes of its cells"
        ) from None


def _csv_head(path: Path, cells: list[str]) -> list[str]:
    head = [cell.strip() for cell in cells]
    if len(head) == 1 and (other := next((mark for mark in ";\t|" if mark in head[0]), None)):
        raise DataError(
            f"{path}, line 1 separates its columns by {other!r}, expected commas; save it anew"
        )
    if len(set(head)) < len(head):
        twice = next(name for name in head if head.count(name) > 1)
        raise DataError(f"{path}, line 1 names the column {twice!r} twice; rename one of them")
    return head


def _cell(column: str, text: str) -> Any:
    """A cell's value: answers, turns and truth values are written as text in a csv file."""
    if column in _JSON_CELLS and text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            # Left as text, which is refused or is one answer that begins with a bracket.
            return text
    return _WORDS.get(text.strip().lower(), text) if column == "answerable" else text


def kind_of(value: Any) -> str:
    """Describe a value of the wrong type, shortly."""
    return "null" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"
