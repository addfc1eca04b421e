"""One file of task samples in three parts: to measure, to choose by, and to judge by."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.checkpoint import atomic_file
from hcnr.data.held_back import FEWEST, held_back_count
from hcnr.data.samples import load_samples, sample_order, sample_records
from hcnr.errors import DataError

SAMPLES, CHOOSING, JUDGING = "task.jsonl", "task-validation.jsonl", "task-questions.jsonl"
MOST_JUDGED = 200
"""Samples to judge by, at most: enough for the task's share of an answer's length and number."""
FEWEST_SAMPLES = 4 * FEWEST


@dataclass(frozen=True)
class Sizes:
    """How many samples each part has.

    Attributes:
        measured: to measure.
        choosing: that follow them: for the task weight, for the losses, and asked to choose.
        judging: that follow those: asked at the end, and looked at by nothing before.
    """

    measured: int
    choosing: int
    judging: int

    def __str__(self) -> str:
        judging = f", and {self.judging} judge" if self.judging else ""
        return f"{self.measured} are measured, {self.choosing} choose{judging}"


def sizes_of(available: int, wanted: int, *, judging: bool = True) -> Sizes:
    """Divide samples: as many as wanted to measure, half as many to choose, the rest to judge by.

    Where there are too few, half of them are measured and a quarter each is left for the others.

    Args:
        available: how many there are.
        wanted: how many to measure at most.
        judging: whether some are to be judged by; otherwise two thirds are measured.
    """
    held = held_back_count(wanted)
    if available >= wanted + (2 if judging else 1) * held:
        return Sizes(wanted, held, min(available - wanted - held, MOST_JUDGED) if judging else 0)
    if not judging:
        return Sizes(available - available // 3, available // 3, 0)
    measured = min(wanted, available // 2)
    return Sizes(measured, available // 4, available - measured - available // 4)


def part_task(
    source: str, folder: Path, wanted: int, shuffle_seed: int | None, *, judging: bool
) -> Sizes:
    """Write the parts of the task samples below `folder`, their records as they were.

    The samples to measure and those to choose by stand in `SAMPLES`, in this order, as `restore`
    takes them; the latter in `CHOOSING` too, as questions.

    Args:
        source: of the samples.
        folder: made where it is missing.
        wanted: how many to measure at most.
        shuffle_seed: of the order, as of `load_samples`; None keeps it.
        judging: whether some are to be judged by.

    Raises:
        DataError: the samples cannot be read, or are too few.
    """
    available = load_samples(source).available
    if available < FEWEST_SAMPLES:
        raise DataError(
            f"{source} holds {available} samples, expected at least {FEWEST_SAMPLES}: a run "
            "measures some, chooses by others and judges by others again; add samples, or use "
            "hcnr restore and hcnr evaluate by hand"
        )
    sizes = sizes_of(available, wanted, judging=judging)
    records = _records(source, shuffle_seed)
    first, second = sizes.measured, sizes.measured + sizes.choosing
    _write(folder / SAMPLES, records[:second])
    _write(folder / CHOOSING, records[first:second])
    if judging:
        _write(folder / JUDGING, records[second : second + sizes.judging])
    return sizes


def write_shuffled(source: str, path: Path, shuffle_seed: int) -> Path:
    """Write all records of a source in a shuffled order.

    Raises:
        DataError: the samples cannot be read.
    """
    load_samples(source)
    _write(path, _records(source, shuffle_seed))
    return path


def _records(source: str, shuffle_seed: int | None) -> list[Any]:
    records = [located.record for located in sample_records(source).located]
    # In the order of `load_samples`, which would shuffle again what is written here.
    return [records[i] for i in sample_order(len(records), shuffle_seed)]


def digest_of(source: str) -> str:
    """SHA-256 of all samples of a source."""
    return load_samples(source, limit=sys.maxsize).sha256


def _write(path: Path, records: list[Any]) -> None:
    lines = (json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    with atomic_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
