"""Named stages of a run: how long each took, and who is told about it."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Protocol

_LOG = logging.getLogger("hcnr")

CHECKPOINTS = "check the checkpoints"
DATA = "read the data"
WEIGHTS = "check the weights"
COUNT = "count the experts' tokens"
LOSSES = "losses of base and tuned"
SELECT = "select"
CURVATURE = "curvature of"
FACTORISE = "factorise"
SEARCH = "search the task weight"
SEARCH_COEFFICIENT = "search the coefficient"
STEPS = "natural steps"
WRITE = "compensate, merge and write"
WRITE_ADAPTER = "compensate, factorise and write"
MERGE = "compensate and merge"
MIX = "interpolate and write"
MIX_MODEL = "interpolate"
SAVE = "write"
CHECK_PATCH = "check the patch"
APPLY = "apply the patch"
LOSSES_RESTORED = "losses of restored"


def score_of(data_set: str) -> str:
    """Name of the stage that takes the Fisher scores of a data set."""
    return f"score {data_set}"


def curvature_of(data_set: str, role: str | None = None) -> str:
    """Name of the stage that measures curvature; of both axes with `role`, base or tuned."""
    return f"{CURVATURE} {data_set}" + (f" at {role}" if role else "")


class Watcher(Protocol):
    """Somebody who wants to see a run progress, such as a progress bar."""

    def begin(self, stage: str) -> None:
        """A stage starts."""
        ...

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` units of the current stage are finished."""
        ...


class _Nobody:
    def begin(self, stage: str) -> None: ...

    def advance(self, done: int, total: int) -> None: ...


class Adding:
    """Adds up what was just done, such as bytes, and tells a watcher."""

    def __init__(self, watcher: Watcher, total: int) -> None:
        """Begin at nothing of `total`."""
        self._watcher, self._total, self._done = watcher, total, 0

    def __call__(self, count: int) -> None:
        """Note that `count` more are done."""
        self._done += count
        self._watcher.advance(self._done, self._total)


class Stages:
    """Clock of a run.

    Attributes:
        seconds: wall-clock seconds by stage, in the order of their first start.
        watcher: who is told.
    """

    def __init__(self, watcher: Watcher | None = None) -> None:
        """Start with no stage; `watcher` None tells nobody."""
        self.seconds: dict[str, float] = {}
        self.watcher: Watcher = watcher or _Nobody()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Watcher]:
        """Time a stage and yield the watcher; a name used again adds up."""
        self.watcher.begin(name)
        start = time.perf_counter()
        try:
            yield self.watcher
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            _LOG.info("%s: %.2f s", name, spent)
