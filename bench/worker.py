"""What the measuring sections share: arguments, and records on disk as soon as they exist.

Each section is a process of its own, so that neither a crash nor its time limit takes what was
measured before. A GPU error that stays (an illegal address, say) fails every later call of its
process too: the worker then leaves with `STICKY`, and the section goes on in a fresh process.
"""

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bench.goals import Record
from bench.journal import Journal
from bench.report import line

STICKY = 75
"""Exit status of a worker whose GPU answers no more."""


class Settings(NamedTuple):
    """Where to measure and how thoroughly."""

    device: torch.device
    small: bool
    quick: bool


class Recorder:
    """Appends records to the journal and prints them; leaves out the cases in `skip`."""

    def __init__(self, section: str, journal: Journal, skip: Sequence[str] = ()) -> None:
        self.section = section
        self._journal = journal
        self._skip = frozenset(skip)
        self.failures = 0

    def __call__(self, case: str, record: Record) -> None:
        self._journal.add("record", section=self.section, case=case, **record)
        try:
            print(line(record), flush=True)
        except Exception:  # it is on disk; how it looks must cost nothing
            print(record, flush=True)

    def attempt(
        self, title: str, measured: Callable[[], list[Record]], *, always: bool = False
    ) -> list[Record]:
        """Record what is measured; a failure is recorded too and the others go on.

        With `always` also where it is to be left out: the rest builds on it.

        Raises:
            SystemExit: With status `STICKY`, once the failure is recorded, if the GPU is lost.
        """
        if title in self._skip and not always:
            return []
        self._journal.add("begin", section=self.section, case=title)
        try:
            records = measured()
        except Exception as error:
            self.failures += 1
            traceback.print_exc(limit=-3)
            first = str(error).strip().splitlines()
            records = [{"title": title, "failed": first[0] if first else type(error).__name__}]
        for record in records:
            self(title, record)
        self._journal.add("end", section=self.section, case=title)
        if any("failed" in record for record in records) and lost():
            print("the GPU answers no more: the rest goes on in another process", flush=True)
            sys.exit(STICKY)
        if torch.cuda.is_available():
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
        return records


def lost() -> bool:
    """Whether the GPU fails whatever it is asked: an error of this process that stays."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").sum().item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False


def started(section: str) -> tuple[Settings, Recorder]:
    """The settings of this process and its recorder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--records", type=Path, action="append", required=True)
    parser.add_argument("--skip", type=json.loads, default=[], help="a JSON list of titles")
    parser.add_argument("--section", default=section)
    parsed = parser.parse_args()
    device = torch.device(parsed.device)
    settings = Settings(device, small=device.type == "cpu", quick=parsed.quick)
    return settings, Recorder(parsed.section, Journal(parsed.records), parsed.skip)
