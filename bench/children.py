"""Child processes of `make gpu`: under a time limit, and never left behind."""

import contextlib
import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.lean import ROOT

GRACE_SECONDS = 5
"""For pytest to report what it has found so far, once its time is up."""

TICK_SECONDS = 0.5
DIE_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux."""

NVCC_PLACES = ("/usr/local/cuda/bin",)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def environment(**extra: str) -> dict[str, str]:
    """For children: the project importable without being installed, no interpreter of Triton."""
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "kernels"), *([inherited] if inherited else [])]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }
    variables["PATH"] = os.pathsep.join([variables.get("PATH", os.defpath), *_compilers()])
    variables.pop("TRITON_INTERPRET", None)
    return variables


def _compilers() -> list[str]:
    """Where nvcc and compute-sanitizer lie on machines that have not put them on PATH."""
    places = [Path(place) for place in NVCC_PLACES]
    if home := os.environ.get("CUDA_HOME"):
        places.insert(0, Path(home, "bin"))
    spec = importlib.util.find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        places += sorted(Path(root).glob("cu*/bin"))
    return [str(place) for place in places if place.is_dir()]


def _die_with_parent(parent: int, alive: int) -> None:
    """In the child: it and what it starts are killed when the process that started it ends.

    The kernel kills the child. What that has started, a compiler or what a sanitizer watches, is
    killed by a process of its group, which reads the pipe `alive` until nobody is left to write.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    between = os.fork()
    if between:
        os.waitpid(between, 0)  # the command has no child that it did not start
    elif os.fork():
        os._exit(0)
    else:
        _guard(alive)


def _guard(alive: int) -> None:
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor != alive:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        os.read(alive, 1)
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def child(
    command: Sequence[str],
    seconds: float,
    *,
    output: Path | None = None,
    tick: Callable[[], None] = lambda: None,
    **extra: str,
) -> int | None:
    """Run a command under a time limit.

    Args:
        command: The command.
        seconds: After which it is killed, its children too.
        output: Where what it prints goes; this process's own output when None.
        tick: Called about twice a second meanwhile.
        extra: Variables of its environment.

    Returns:
        Its exit status, negative for a signal; None if it was killed at its time limit.
    """
    parent, deadline = os.getpid(), time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((output or Path(os.devnull)).open("w"))
        stream = None if output is None else file
        reading, writing = os.pipe()
        for end in (reading, writing):
            stack.callback(os.close, end)
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**extra), stdout=stream, stderr=stream,
            start_new_session=True, preexec_fn=lambda: _die_with_parent(parent, reading),
        )  # fmt: skip
        try:
            while True:
                left = deadline - time.monotonic()
                try:
                    return process.wait(max(0.0, min(TICK_SECONDS, left)))
                except subprocess.TimeoutExpired:
                    tick()
                    if left <= 0:
                        break
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
