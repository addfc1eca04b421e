"""Sections of `make gpu` that check: the tests of the suite, and compute-sanitizer."""

import os
import re
import shutil
from pathlib import Path

from bench.children import environment, installed, python
from bench.context import PASSED, Context, verdict
from bench.lean import ROOT, settings_available

KERNELS = "tests/kernels"
PIPELINE = (*(f"tests/curvature/test_{name}.py"
              for name in ("passes", "scores", "fisher", "taps", "moments", "memory")),
            "tests/pipeline/test_restoring.py")  # fmt: skip
"""What else of the suite computes on a GPU; needs hcnr whole."""


def tests(context: Context) -> str:
    if not installed("pytest"):
        return "skipped: pytest is not installed"
    paths, left_out = [KERNELS, *PIPELINE], ""
    if not settings_available():
        # The suite's conftest.py imports hcnr whole.
        paths = [KERNELS, f"--confcutdir={KERNELS}"]
        left_out = (
            f", but {len(PIPELINE)} test files need pydantic and were left out: make gpu-wheels"
        )
    if context.quick:
        paths[0] = f"{KERNELS}/test_ops.py"
    if context.device == "cpu":
        # The whole suite runs without a GPU too, in its own command: here is but the path to it.
        paths = [f"{KERNELS}/test_tiles.py", f"--confcutdir={KERNELS}"]
    workers = ["-p", "bench.sticky"]
    if installed("xdist") and context.device == "cuda":
        workers += ["-n", str(min(8, os.cpu_count() or 1))]
    command = python("-m", "pytest", *paths, *workers, "--color=no")
    result = verdict(context.child(command, OMP_NUM_THREADS="2"))
    return result + left_out if result == PASSED else result


def own_kernels() -> list[str]:
    """Names of the project's kernels."""
    names = ["invert_blocks"]  # in csrc
    for path in sorted((ROOT / "kernels" / "hcnr_kernels").rglob("*.py")):
        names += re.findall(r"^@triton\.jit.*\ndef (\w+_kernel)\(", path.read_text(), re.MULTILINE)
    assert len(names) > 1, "the sanitizer would look at every kernel of every library"
    return names


def sanitizer(check: str, context: Context) -> str:
    """One of compute-sanitizer's tools over every operator."""
    tool = shutil.which("compute-sanitizer", path=environment()["PATH"])
    if tool is None or context.device == "cpu":
        return "skipped: compute-sanitizer is not on PATH, or there is no GPU"
    script = python("-m", "bench.sanitize")
    # Compiles what the check will run, so that its time is spent on checking.
    plain = context.scratch / "plain.log"
    status = context.child(script, output=plain)
    if status != 0:
        print(plain.read_text()[-2000:])
        return verdict(status)
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
    log = context.scratch / f"{check}.log"
    # Each tensor an allocation of its own, so that its ends are known.
    status = context.child(command, output=log, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return _outcome(check, log, status)


def _outcome(check: str, log: Path, status: int | None) -> str:
    text = log.read_text()
    if "Device not supported" in text:
        return "skipped: compute-sanitizer does not support this device"
    summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY.*", text)
    print(f"{check}: {summaries[-1] if summaries else verdict(status)}", flush=True)
    if status not in (0, None):
        print(text[:3000])
    return verdict(status)
