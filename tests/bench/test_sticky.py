"""Tests that follow one which loses the GPU."""

import os
import re
import subprocess
import sys

import pytest

from bench.lean import ROOT

CONFTEST = """
import pathlib
from bench import sticky
sticky.lost = lambda: LOST

LOST = False

def lose():
    global LOST
    LOST = True

import builtins
builtins.lose, builtins.is_lost = lose, lambda: LOST
"""

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(8))
def test(number):
    if number == 3:
        lose()
    assert not is_lost()
"""


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")])
def test_an_error_that_stays_fails_one_test_alone(workers, tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, "-m", "pytest", "-p", "bench.sticky", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, *workers, "-q", "--color=no"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False, timeout=120,
    )  # fmt: skip
    assert found.returncode != 0
    passed = int((re.search(r"(\d+) passed", found.stdout) or ["", "0"])[1])
    # Alone it stops there; with xdist another process runs the rest.
    assert passed == (7 if workers else 3), found.stdout
    if not workers:
        assert "the GPU answers no more" in found.stdout
