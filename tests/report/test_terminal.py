import io

import pytest
from rich.console import Console

from hcnr.report import terminal
from hcnr.report.terminal import Bars, duration


def test_progress_becomes_lines_of_a_log_as_time_goes_by(monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0, 75.0, 80.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
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
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
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
