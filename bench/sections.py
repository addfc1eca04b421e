"""The sections of `make gpu`: each a process or a few, under a time limit, one after the other."""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bench.checks import sanitizer, tests
from bench.children import installed, python
from bench.context import Context, verdict
from bench.journal import begun

FAMILIES = ("inverse", "compensation", "gram", "perturbation", "merge", "fisher")
"""Plain CUDA and plain products first, the kernels with the most in them last."""

CHECKS = ("memcheck", "racecheck", "initcheck")
TRIES = 8
"""Processes of one section at most, each of which has lost one case."""


class Section(NamedTuple):
    """How long it may take, with how much less it is worth starting, and what it does.

    It returns its result in words; `passed`, or `skipped` with a reason, is no failure.
    """

    seconds: float
    least: float
    run: Callable[[Context], str]


def build(context: Context) -> str:
    return verdict(context.child(python("-m", "bench.build", context.device)))


def worker(module: str, section: str, context: Context) -> str:
    """A measuring section; a case that ends its process is recorded, and the others go on."""
    skip, statuses = list(context.skip.get(section, ())), []
    for _ in range(TRIES):
        command = python("-m", f"bench.{module}", "--section", section, "--device", context.device)
        command += [part for path in context.journal.files for part in ("--records", str(path))]
        command += ["--skip", json.dumps(skip), *(["--quick"] if context.quick else [])]
        before = len(context.journal.entries())
        status = context.child(command)
        statuses.append(status)
        if status in (0, 1, None):
            break
        new = context.journal.entries()[before:]
        tried = begun(new, section)
        if not tried:
            break
        if not any(entry["kind"] == "end" and entry["case"] == tried[-1] for entry in new):
            why = f"signal {-status}" if status < 0 else f"status {status}"
            failed = f"the process ended with {why} while this was measured"
            context.journal.add("record", section=section, case=tried[-1], title=tried[-1],
                                failed=failed)  # fmt: skip
            print(f"{tried[-1]}: {failed}", flush=True)
        skip += tried
    return verdict(*statuses)


def with_hcnr(module: str, section: str, context: Context) -> str:
    """A measuring section that computes with hcnr whole."""
    for package in ("transformers", "pydantic"):
        if not installed(package):
            cure = ": make gpu-wheels" if package == "pydantic" else ""
            return f"skipped: {package} is not installed{cure}"
    return worker(module, section, context)


def measure(section: str, context: Context) -> str:
    if not installed("transformers"):
        return "skipped: transformers is not installed"
    return worker("measure", section, context)


def operators(context: Context) -> str:
    """The registry's operators on their large inputs, by pytest-benchmark; see conftest.py."""
    if context.quick or not installed("pytest_benchmark"):
        return "skipped: --quick, or pytest-benchmark is not installed"
    log = context.scratch / "operators.log"
    timed = context.child(
        python("-m", "pytest", "bench/test_ops.py", "-q"),
        output=log,
        HCNR_JOURNAL=os.pathsep.join(map(str, context.journal.files)),
        HCNR_SKIP=json.dumps(list(context.skip.get("operators", ()))),
    )
    if timed != 0:
        print(log.read_text()[-3000:])
    return verdict(timed)


SECTIONS = {
    "build": Section(120, 10, build),
    "tests": Section(200, 100, tests),
    **{name: Section(75, 20, partial(worker, "kernels", name)) for name in FAMILIES},
    "accuracy": Section(60, 20, partial(worker, "kernels", "accuracy")),
    "passes": Section(150, 45, partial(measure, "passes")),
    "races": Section(150, 60, partial(measure, "races")),
    "8b": Section(420, 180, partial(with_hcnr, "job", "8b")),
    "sweep": Section(120, 60, partial(with_hcnr, "job", "sweep")),
    "70b": Section(150, 60, partial(with_hcnr, "job", "70b")),
    "8b-spectral": Section(300, 180, partial(with_hcnr, "job", "8b-spectral")),
    "operators": Section(150, 30, operators),
    **{name: Section(150, 40, partial(sanitizer, name)) for name in CHECKS},
}
"""In the order of what a first run must not be without; the whole takes several commands."""

GROUPS = {
    "kernels": (*FAMILIES, "accuracy"),
    "measure": ("passes", "races"),
    "sanitizer": CHECKS,
}
"""Names for several sections at once."""
