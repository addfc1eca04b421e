"""Data files, `datasets` data sets and Python lists -> records with their locations."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hcnr.data.files import Located, check_file, extensions, numbered, read_file
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.errors import DataError
from hcnr.hub import HUB

__all__ = ["HUB", "Records", "check_source", "open_records"]


class Records(NamedTuple):
    """Records and where they come from.

    Attributes:
        name: of the file or data set, or a description of the Python object.
        located: each with its location; a bad line raises `DataError` when it is reached.
        path: of the file; None where there is none.
    """

    name: str
    located: Iterator[Located]
    path: Path | None = None


def open_records(source: Any) -> Records:
    """Open whatever records may come as.

    Args:
        source: a .jsonl, .json, .csv or .parquet file; `hf:NAME` (see `hcnr.hub`) or the directory
            of a data set; or an iterable of records, such as a list or a `datasets.Dataset`.

    Raises:
        DataError: it is none of these, or cannot be opened; one sentence says why.
    """
    if isinstance(source, str | os.PathLike):
        text = os.path.expanduser(os.fspath(source))
        if text.startswith(HUB) or (os.path.isdir(text) and not text.endswith(extensions())):
            from hcnr.hub import open_dataset

            return Records(text, numbered(text, open_dataset(text)))
        return Records(text, read_file(Path(text)), Path(text))
    if isinstance(source, Mapping) and type(source).__name__.endswith("DatasetDict"):
        raise DataError(
            f"samples come as a {type(source).__name__} with the splits "
            f"{', '.join(map(str, source))}; pass one of them, such as data[{next(iter(source))!r}]"
        )
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        raise DataError(
            f"samples come as a {type(source).__name__}, expected a path or a list of records; "
            "put a single record into a list"
        )
    kind = type(source).__name__
    name = f"the given {kind if kind.endswith('Dataset') else 'list'}"
    return Records(name, numbered(name, source))


def check_source(source: Any) -> None:
    """Raise DataError where a name is no file, no directory and none of what needs neither."""
    if not isinstance(source, str) or source in (STARTER, VALIDATION) or source.startswith(HUB):
        return
    source = os.path.expanduser(source)
    if not os.path.isdir(source) or source.endswith(extensions()):
        check_file(Path(source))
