"""Processes that start at once: forked by one that has imported what they need and has no threads.

The import of torch and transformers takes longer than what most of them do. Pytest itself cannot
fork them, with whatever threads earlier tests started.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PRELOADED = ["transformers.models.llama.modeling_llama", "torch.distributed.run", "several"]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOADED)


def _begun(
    place: Path, environment: dict[str, str], function: Callable[..., None], arguments: Any
) -> None:
    """What a process does: become the first of its group, with output in files, and call."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(environment)
    function(*arguments)


class Forked:
    """A process, with the face of `subprocess.Popen` as far as tests use it.

    Args:
        place: a directory for what it prints.
        function: of a module, called there.
        arguments: of the function.
        environment: changes of it.
    """

    def __init__(
        self, place: Path, function: Callable[..., None], *arguments: Any, **environment: str
    ):
        self._place = place
        place.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            # Of the process that forks, which the first call starts.
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            self._process = _CONTEXT.Process(
                target=_begun, args=(place, environment, function, arguments)
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """What it ended with, a signal as a negative number; None before."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait until it has ended; what it printed.

        Raises:
            subprocess.TimeoutExpired: It runs longer.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._place), timeout)
        out, err = ((self._place / name).read_text() for name in ("out", "err"))
        return out, err

    def kill(self) -> None:
        """End it and what it has started."""
        os.killpg(self.pid, signal.SIGKILL)
