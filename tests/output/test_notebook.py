"""What a notebook shows, with a stand-in for IPython."""

import sys
import types

import pytest

from hcnr.output import notebook
from hcnr.output.notebook import NotebookBars, html_table, is_notebook


class ZMQInteractiveShell:
    """Jupyter's name of a notebook's shell."""


class TerminalInteractiveShell:
    """IPython's at a terminal."""


@pytest.fixture
def shown(monkeypatch):
    """Puts a kernel in place; every text that the cell's output has had."""
    texts: list[str] = []

    class Handle:
        def update(self, value):
            texts.append(value)

    def display(value, display_id=False):
        assert display_id is True
        texts.append(value)
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell  # pyright: ignore
    ipython.display = types.ModuleType("IPython.display")  # pyright: ignore
    ipython.display.display, ipython.display.HTML = display, str  # pyright: ignore
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return texts


def test_a_notebook_is_told_by_its_shell(shown, monkeypatch):
    assert is_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", TerminalInteractiveShell)
    assert not is_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not is_notebook()


def test_one_line_changes(shown, monkeypatch):
    clock = iter([0.0, 1.0, 1.1, 1.15, 2.0, 3.0])
    monkeypatch.setattr(notebook.time, "monotonic", lambda: next(clock))
    with NotebookBars() as bars:
        assert shown == []
        bars.begin("answers of <b>")
        bars.advance(1, 4)
        # Too soon after the one before, but the last one is always told.
        bars.advance(2, 4)
        bars.advance(4, 4)
        bars.begin("write")
    assert shown == [
        "<code>answers of &lt;b&gt; ...</code>",
        "<progress value='1' max='4'></progress> <code>answers of &lt;b&gt;: 1 of 4, 1 s</code>",
        "<progress value='4' max='4'></progress> <code>answers of &lt;b&gt;: 4 of 4, 1 s</code>",
        "<code>write ...</code>",
        "<code>done</code>",
    ]


def test_an_error_is_not_called_done(shown):
    with pytest.raises(KeyboardInterrupt), NotebookBars() as bars:
        bars.begin("measure")
        raise KeyboardInterrupt
    assert shown == ["<code>measure ...</code>"]


def test_tables_hold_plain_text():
    assert "<script>" not in html_table("a<script>", [("<script>", "<script>")])
    assert "&lt;script&gt;" in html_table("t", [("n", "<script>")])
