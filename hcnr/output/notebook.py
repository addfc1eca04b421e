"""What a notebook shows: results as small tables, progress as a line that changes."""

import html
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

__all__ = ["NotebookBars", "html_table", "is_notebook"]

EVERY = 0.2
"""Seconds between two changes of the line."""
_KERNELS = ("ZMQInteractiveShell", "Shell")
"""What Jupyter and Colab call the shell of a notebook."""


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook; imports nothing for it."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return type(shell).__name__ in _KERNELS


def html_table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values under a title, all of it plain text."""
    lines = [
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    ]
    head = f"<caption style='text-align:left'><b>{html.escape(title)}</b></caption>"
    return f"<table>{head}{''.join(lines)}</table>"


class NotebookBars:
    """A `Watcher` that keeps one line of the cell's output up to date; a context manager."""

    def __init__(self) -> None:
        """Show nothing before the first stage."""
        self._line: Any = None
        self._stage, self._began, self._told = "", 0.0, 0.0

    def __enter__(self) -> "NotebookBars":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._line is not None:
            self._show("done")

    def begin(self, stage: str) -> None:
        """Let the line speak of another stage."""
        self._stage, self._began, self._told = stage, time.monotonic(), 0.0
        self._show(f"{stage} ...")

    def advance(self, done: int, total: int) -> None:
        """Say how far the stage is."""
        now = time.monotonic()
        if done < total and now - self._told < EVERY:
            return
        self._told = now
        text = f"{self._stage}: {done} of {total}, {now - self._began:.0f} s"
        self._show(text, done, total)

    def _show(self, text: str, done: int = 0, total: int = 0) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports] (a kernel)

        bar = f"<progress value='{done}' max='{total}'></progress> " if total else ""
        shown = HTML(f"{bar}<code>{html.escape(text)}</code>")
        if self._line is None:
            self._line = display(shown, display_id=True)
        else:
            self._line.update(shown)
