"""Benchmarks by name, from the authors' files."""

import difflib
import os
from collections.abc import Iterable

from hcnr.benchmarks.own_questions import check_limit
from hcnr.benchmarks.questions import Benchmark
from hcnr.benchmarks.sources import Record, SourceReader
from hcnr.benchmarks.splits import HONESTY_SETS, TASK_SETS, Splits
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.detectors import DEFAULT, OF_SETS
from hcnr.errors import ConfigError

__all__ = ["HONESTY_SETS", "TASK_SETS", "check_name", "files_of", "load_benchmark"]


def load_benchmark(
    name: str, data_root: str | os.PathLike[str] | None = None, limit: int | None = None
) -> Benchmark:
    """Read the evaluation split of a honesty set or a task.

    Questions are in the order of their digests, so that the first ones are a mixed sample.

    Args:
        name: one of `HONESTY_SETS` or `TASK_SETS`; the starter set needs no files
            (`hcnr.benchmarks.own_questions`).
        data_root: folder with the authors' files; by default `$HCNR_DATA_ROOT`.
        limit: how many questions to use at most, the first ones; None for all.

    Raises:
        ConfigError: the name is unknown, or `limit` is below 1.
        DataError: there is no data root, or a file is missing or not the known one.
    """
    check_name(name)
    check_limit(limit)
    reader = SourceReader(data_root)
    reader.check(files_of([name]))
    questions = Splits(reader).evaluation(name)
    return Benchmark(
        name=name,
        questions=questions[:limit],
        detector=OF_SETS.get(name, DEFAULT),
        sha256=reader.sha256(),
        source=", ".join(str(reader.root / path) for path in reader.files),
    )


def check_name(name: str) -> None:
    """Raise ConfigError unless a set has this name."""
    known = (STARTER, VALIDATION, *HONESTY_SETS, *TASK_SETS)
    if name not in known:
        closest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"the benchmark {name!r} is unknown, expected one of {', '.join(known)}, or a .jsonl, "
            f".json, .csv or .parquet file; did you mean {closest}?"
        )


def files_of(names: Iterable[str]) -> list[str]:
    """Paths below the data root of all files that the evaluation splits of these sets need."""
    paths: dict[str, None] = {}

    def note(path: str) -> list[Record]:
        paths[path] = None
        return []

    names, splits = list(names), Splits(note)
    # A task's questions that are in or near a honesty set are left out.
    for name in (*names, *(HONESTY_SETS if any(name in TASK_SETS for name in names) else ())):
        splits.evaluation(name)
    return list(paths)
