"""The sections of `make gpu`: each a process or a few, under a time limit, one after the other."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.lean import ROOT, settings_available

Record = dict[str, Any]

PASSED, FAILED, LATE = "passed", "failed", "ran out of time"
GRACE_SECONDS = 5
CHECKS = ("memcheck", "racecheck", "initcheck")


class Context(NamedTuple):
    """What a section is given; `deadline` is a value of `time.monotonic()`."""

    device: str
    quick: bool
    scratch: Path
    deadline: float

    @property
    def records(self) -> Path:
        return self.scratch / "records.jsonl"

    def left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())


class Section(NamedTuple):
    """What it may take beside the others, and what it does.

    It returns its result in words; `passed`, or `skipped` with a reason, is no failure.
    """

    seconds: float
    run: Callable[[Context], str]


def environment(**extra: str) -> dict[str, str]:
    """For children: the project importable without being installed, no interpreter of Triton."""
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "kernels"), *([inherited] if inherited else [])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **extra}
    found.pop("TRITON_INTERPRET", None)
    return found


def child(
    command: Sequence[str], seconds: float, *, output: Path | None = None, **extra: str
) -> int | None:
    """Exit status of a command, or None if it was killed, its children too, at its time limit."""
    with (output or Path(os.devnull)).open("w") as file:
        stream = None if output is None else file
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**extra), stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(seconds)
        except BaseException as error:
            process.send_signal(signal.SIGINT)  # pytest then reports what it has found so far
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None


def verdict(*statuses: int | None) -> str:
    if any(status is None for status in statuses):
        return LATE
    return FAILED if any(statuses) else PASSED


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def build(context: Context) -> str:
    return verdict(child(python("-m", "bench.build", context.device), context.left()))


def tests(context: Context) -> str:
    if not installed("pytest"):
        return "skipped: pytest is not installed"
    paths = ["tests/kernels", "tests/test_measure.py", "tests/test_neuron_fisher.py"]
    if not settings_available():
        print("pydantic is not installed: the kernels' tests alone")
        # The suite's conftest.py imports hcnr whole.
        paths = ["tests/kernels", "--confcutdir=tests/kernels"]
    if context.quick:
        paths[0] = "tests/kernels/test_ops.py"
    workers = ["-n", str(min(8, os.cpu_count() or 1))] if installed("xdist") else []
    command = python("-m", "pytest", *paths, *workers, "--maxfail=20", "--color=no")
    return verdict(child(command, context.left(), OMP_NUM_THREADS="2"))


def _worker(section: str, context: Context) -> int | None:
    command = python("-m", f"bench.{section}", "--device", context.device)
    command += ["--records", str(context.records), *(["--quick"] if context.quick else [])]
    return child(command, context.left())


def kernels(context: Context) -> str:
    status = _worker("kernels", context)
    if context.quick or not installed("pytest_benchmark"):
        print("the registry's large inputs are left out: --quick, or no pytest-benchmark")
        return verdict(status)
    found = context.scratch / "operators.json"
    command = python("-m", "pytest", "bench/test_ops.py", "-q", f"--benchmark-json={found}")
    timed = child(command, context.left(), output=context.scratch / "operators.log")
    if timed != 0:
        print((context.scratch / "operators.log").read_text()[-3000:])
    if found.exists() and found.stat().st_size:
        with context.records.open("a") as file:
            for benchmark in json.loads(found.read_text())["benchmarks"]:
                file.write(json.dumps(_operator_record(benchmark)) + "\n")
    return verdict(status, timed)


def _operator_record(benchmark: Record) -> Record:
    """An operator of the registry on its large input, as pytest-benchmark wrote it."""
    info = benchmark["extra_info"]
    rates = f"{info['gigabytes_per_second']:.0f} GB/s, {info['teraflops']:.2f} TFLOP/s"
    return {
        "section": "kernels",
        "title": f"registry: {benchmark['param']}",
        "shape": f"{info['shapes']}: {rates}",
        "dtype": info["dtype"].removeprefix("torch."),
        "ms": {name: info[f"{name}_ms"] for name in ("p20", "p50", "p80")},
        "peak_mib": info["peak_mib"],
    }


def measure(context: Context) -> str:
    if not installed("transformers"):
        return "skipped: transformers is not installed"
    return verdict(_worker("measure", context))


def own_kernels() -> list[str]:
    """Names of the project's kernels."""
    names = ["invert_blocks"]  # in csrc
    for path in sorted((ROOT / "kernels" / "hcnr_kernels").rglob("*.py")):
        names += re.findall(r"^@triton\.jit.*\ndef (\w+_kernel)\(", path.read_text(), re.MULTILINE)
    assert len(names) > 1, "the sanitizer would look at every kernel of every library"
    return names


def sanitizer(context: Context) -> str:
    tool = shutil.which("compute-sanitizer")
    if tool is None or context.device == "cpu":
        return "skipped: compute-sanitizer is not on PATH, or there is no GPU"
    script = python("-m", "bench.sanitize")
    # Compiles what the checks will run, so that their time is spent on checking.
    status = child(script, context.left(), output=context.scratch / "plain.log")
    if status != 0:
        print((context.scratch / "plain.log").read_text()[-2000:])
        return verdict(status)
    statuses: list[int | None] = []
    checks = CHECKS[:1] if context.quick else CHECKS
    for place, check in enumerate(checks):
        log = context.scratch / f"{check}.log"
        command = [tool, "--tool", check, "--error-exitcode", "9", "--print-limit", "20"]
        if check == "memcheck":
            # torch asks some questions of the driver whose answer is an error.
            command += ["--report-api-errors", "no"]
        if check == "initcheck":
            # Unfiltered: memory that a kernel of torch's has written must count as written.
            command += [*script, "--only-triton"]
        else:
            command += [part for name in own_kernels() for part in ("--kernel-name", f"kns={name}")]
            command += script
        seconds = context.left() / (len(checks) - place)
        # Each tensor an allocation of its own, so that its ends are known.
        status = child(command, seconds, output=log, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        text = log.read_text()
        if "Device not supported" in text:
            return "skipped: compute-sanitizer does not support this device"
        summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY.*", text)
        print(f"{check}: {summaries[-1] if summaries else verdict(status)}", flush=True)
        if status not in (0, None):
            print(text[:3000])
        statuses.append(status)
    return verdict(*statuses)


SECTIONS = {
    "build": Section(60, build),
    "tests": Section(160, tests),
    "kernels": Section(160, kernels),
    "measure": Section(85, measure),
    "sanitizer": Section(105, sanitizer),
}
