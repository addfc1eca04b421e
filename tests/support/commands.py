"""The command line in this process, as a user types it."""

import contextlib
import io
import subprocess
import sys

import pytest

from hcnr import cli

TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments, code=0):
    """Run `main` in this process, which spares the import of torch."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TERMINAL.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["hcnr", *map(str, arguments)])
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main()
    shown = subprocess.CompletedProcess(
        [], int(ended.value.code or 0), out.getvalue(), err.getvalue()
    )
    assert shown.returncode == code, shown.stdout + shown.stderr
    return shown
