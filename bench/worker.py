"""What the measuring sections share: arguments, and records written as soon as they exist.

Each section is a process of its own, so that neither a crash nor its time limit takes what was
measured before.
"""

import argparse
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from bench.cases import Record
from bench.report import line


class Settings(NamedTuple):
    """Where to measure and how thoroughly."""

    device: torch.device
    small: bool
    quick: bool


class Recorder:
    """Appends records to a file and prints them."""

    def __init__(self, section: str, path: Path) -> None:
        self._section = section
        self._path = path
        self.failures = 0

    def __call__(self, record: Record) -> None:
        record = {"section": self._section, **record}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(line(record), flush=True)

    def attempt(self, title: str, measured: Callable[[], list[Record]]) -> list[Record]:
        """Record what is measured; a failure is recorded too and the others go on."""
        try:
            records = measured()
        except Exception as error:
            self.failures += 1
            traceback.print_exc(limit=-3)
            first = str(error).strip().splitlines()
            records = [{"title": title, "failed": first[0] if first else type(error).__name__}]
        for record in records:
            self(record)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return records


def started(section: str) -> tuple[Settings, Recorder]:
    """The settings of this process and its recorder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--records", type=Path, required=True)
    found = parser.parse_args()
    device = torch.device(found.device)
    settings = Settings(device, small=device.type == "cpu", quick=found.quick)
    return settings, Recorder(section, found.records)
