"""What every section of `make gpu` is given, and how it says what came of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.children import child
from bench.journal import Journal

PASSED, FAILED, LATE = "passed", "failed", "ran out of time"
SKIPPED = "skipped"


class Context(NamedTuple):
    """What a section is given.

    Attributes:
        device: cuda or cpu.
        quick: Fewer runs, tests and checks.
        scratch: A folder for logs.
        journal: Where records go.
        deadline: A value of `time.monotonic()`.
        skip: Titles of cases by section that an earlier run has measured.
        tick: To be called while waiting.
    """

    device: str
    quick: bool
    scratch: Path
    journal: Journal
    deadline: float
    skip: Mapping[str, Sequence[str]]
    tick: Callable[[], None]

    def left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())

    def child(self, command: Sequence[str], seconds: float | None = None, **extra) -> int | None:
        """`children.child`, by default with all the time that is left."""
        return child(command, self.left() if seconds is None else seconds, tick=self.tick, **extra)


def verdict(*statuses: int | None) -> str:
    if any(status is None for status in statuses):
        return LATE
    return FAILED if any(statuses) else PASSED


def is_bad(status: str) -> bool:
    """Whether a section's result makes the whole run a failure."""
    return not status.startswith((PASSED, SKIPPED))
