"""Progress bars: of a command, and of a function of the Python API where somebody looks on."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hcnr.output import current
from hcnr.output.notebook import NotebookBars, is_notebook
from hcnr.progress import Watcher

__all__ = ["Bars", "duration", "progress_bars", "shows_progress"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Bars:
    """A `Watcher` that draws one progress bar per stage; use it as a context manager."""

    def __init__(self, console: Console, *, transient: bool = False) -> None:
        """Draw on `console`; nothing is drawn where that is no terminal.

        `transient` bars give way to the next one, and to nothing at the end.
        """
        self._transient = transient
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=transient,
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._stage, self._began, self._told = "", 0.0, 0.0

    def __enter__(self) -> "Bars":
        self._progress.__enter__()
        _SHOWING.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _SHOWING.remove(self)
        if error is None:
            self._finish()
        self._progress.__exit__(kind, error, trace)

    def begin(self, stage: str) -> None:
        """Finish the current bar and start one for `stage`.

        Where there is no terminal a lasting bar becomes a line, and further ones as time goes by.
        """
        self._finish()
        self._stage, self._began = stage, time.monotonic()
        self._told = self._began
        self._log(f"{stage} ...")
        self._task = self._progress.add_task(stage, total=None)

    def advance(self, done: int, total: int) -> None:
        """Move the current bar to `done` of `total`."""
        if self._task is None:
            return
        self._progress.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if 0 < done < total and now - self._told >= LOG_SECONDS:
            self._told = now
            left = duration((now - self._began) / done * (total - done))
            self._log(f"{self._stage}: {done} of {total} ({done / total:.0%}, about {left} left)")

    def _log(self, line: str) -> None:
        """A line of a log, where nobody sees the bar."""
        if self._progress.disable and not self._transient:
            self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _finish(self) -> None:
        if self._task is None:
            return
        if self._transient:
            self._progress.remove_task(self._task)
            return
        task = next(t for t in self._progress.tasks if t.id == self._task)
        total = task.total if task.total is not None else 1
        self._progress.update(self._task, completed=total, total=total)


LOG_SECONDS = 30.0
"""Between two lines of progress in a log."""
_SHOWING: list[Bars] = []
"""Bars that are on: a function that is called under them opens none of its own."""


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_bars() -> Bars:
    """Bars on the error stream, so that a table can be piped; transformers' own fall silent.

    Nothing is shown where the command was given --quiet; --log-level lets transformers speak.
    """
    from transformers.utils import logging

    # One voice on the terminal: transformers' own bars and hints would interleave with ours.
    logging.disable_progress_bar()
    level = (current().log_level or "error").upper()
    logging.set_verbosity(getattr(logging, level))
    return Bars(Console(stderr=True, quiet=current().quiet))


def shows_progress(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Give a function with `watcher` and `progress` bars where somebody looks on.

    That is in a notebook, or where the error stream is a terminal; not where a watcher is given,
    `progress` is false, or bars are on already.
    """

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if kwargs.get("watcher") is not None or not kwargs.get("progress", True) or _SHOWING:
            return function(*args, **kwargs)
        with _own_bars() as watcher:
            # A type for "the same arguments, one of them another" does not exist.
            call: Any = function
            return call(*args, **{**kwargs, "watcher": watcher})

    return wrapper


@contextlib.contextmanager
def _own_bars() -> Iterator[Watcher | None]:
    """Bars for one call; none where nobody looks on."""
    if not (notebook := is_notebook()) and not getattr(sys.stderr, "isatty", bool)():
        yield None
        return
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with NotebookBars() if notebook else Bars(Console(stderr=True), transient=True) as bars:
            yield bars
    finally:
        if shown:
            logging.enable_progress_bar()
