"""Bars at a terminal, lines of a log, and who gets them by default."""

import inspect
import io
import sys

import pytest
from rich.console import Console

import hcnr
from hcnr.output import bars as module
from hcnr.output.bars import Bars, duration, shows_progress
from hcnr.output.notebook import NotebookBars
from hcnr.progress import Watcher


def test_progress_becomes_lines_of_a_log_as_time_goes_by(monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0, 75.0, 80.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    with Bars(Console(file=log, width=200)) as bars:
        bars.begin("answers")
        for done in (1, 10, 20, 30, 40):
            bars.advance(done, 40)
    assert log.getvalue().splitlines() == [
        "answers ...",
        "answers: 10 of 40 (25%, about 2 min left)",
        "answers: 30 of 40 (75%, about 25 s left)",
    ]


@pytest.mark.parametrize("options", [{"transient": True}, {}])
def test_bars_that_pass_and_quiet_consoles_write_no_lines(monkeypatch, options):
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    log = io.StringIO()
    with Bars(Console(file=log, quiet=not options), **options) as bars:
        bars.begin("answers")
        bars.advance(1, 4)
    assert log.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@shows_progress
def work(*, watcher: Watcher | None = None, progress: bool = True) -> Watcher | None:
    """Any function of the Python API."""
    if watcher is not None:
        watcher.begin("work")
        watcher.advance(1, 1)
    return watcher


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_show_where_somebody_looks_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert work() is None, "a log has no use for them"
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(work(), Bars) and "work" in sys.stderr.getvalue()  # pyright: ignore
    assert work(progress=False) is None
    with Bars(Console(file=io.StringIO())) as bars:
        assert work() is None, "bars are on already"
        assert work(watcher=bars) is bars
    assert isinstance(work(), Bars)


def test_a_notebook_gets_its_own(monkeypatch):
    monkeypatch.setattr(module, "is_notebook", lambda: True)
    told = []
    monkeypatch.setattr(module.NotebookBars, "_show", lambda self, *text: told.append(text))
    assert isinstance(work(), NotebookBars)
    assert told[0] == ("work ...",)


def test_transformers_bars_are_back_afterwards(monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(sys, "stderr", Terminal())
    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        inside = []
        shows_progress(lambda **_: inside.append(logging.is_progress_bar_enabled()))()
        assert inside == [False] and logging.is_progress_bar_enabled()
    finally:
        if not before:
            logging.disable_progress_bar()


@pytest.mark.parametrize("name", ["measure", "restore", "evaluate", "probe", "sweep", "tune"])
def test_the_functions_of_the_api_have_them(name):
    parameter = inspect.signature(getattr(hcnr, name)).parameters["progress"]
    assert parameter.default is True
    assert "    progress: bars in a notebook" in getattr(hcnr, name).__doc__
