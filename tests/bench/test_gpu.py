"""`make gpu` with sections that measure nothing: what is left of it when it ends early."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import sections
from bench.children import child, python
from bench.context import FAILED, LATE, PASSED
from bench.gpu import chosen
from bench.lean import ROOT

SECTIONS, CASES = ("inverse", "gram", "fisher"), 6

WORKER = """
import argparse, json, os, pathlib, signal, time
from bench.journal import Journal
parser = argparse.ArgumentParser()
parser.add_argument("--device"); parser.add_argument("--section"); parser.add_argument("--skip")
parser.add_argument("--records", type=pathlib.Path, action="append")
a = parser.parse_args()
journal, here = Journal(a.records), pathlib.Path(__file__).parent
(here / "pid").write_text(str(os.getpid()))
for number in range({cases}):
    case = f"case {{number}}"
    if case in json.loads(a.skip):
        continue
    journal.add("begin", section=a.section, case=case)
    time.sleep(0.02)
    if f"{{a.section}} {{case}}" == os.environ.get("CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    journal.add("record", section=a.section, case=case, title=f"{{a.section}} {{case}}")
    journal.add("end", section=a.section, case=case)
    print(f"MEASURED {{a.section}} {{case}}", flush=True)
"""

DRIVER = """
import sys
from functools import partial
sys.path[:0] = [{root!r}]
from bench import gpu, sections
gpu.facts = lambda device, scratch: {{"name": "A Card", "date": "today"}}
gpu.installed = lambda module: True
sections.SECTIONS.clear()
for name in {names!r}:
    sections.SECTIONS[name] = sections.Section(
        60, 0 if name == {names!r}[0] else {least}, partial(sections.worker, "pretended", name))
sys.exit(gpu.main())
"""


class Command:
    """`make gpu` with pretended sections, in a folder of its own."""

    def __init__(self, folder: Path, least: float = 0) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "bench").mkdir()
        (folder / "bench" / "pretended.py").write_text(WORKER.format(cases=CASES))
        self.driver = folder / "driver.py"
        self.driver.write_text(DRIVER.format(root=str(ROOT), names=SECTIONS, least=least))

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen:
        found = {**os.environ, **variables, "PYTHONPATH": str(self.folder)}
        found.pop("OUT", None)
        return subprocess.Popen(
            [sys.executable, str(self.driver), "--out", str(self.out), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**found, **variables}, cwd=ROOT,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(*arguments, **variables)
        text = process.communicate(timeout=60)[0]
        return process.returncode, text

    def result(self, name: str) -> dict:
        return json.loads((self.out / f"{name}.json").read_text())


def is_gone(file: Path) -> bool:
    """Whether the process whose number is in a file ends, or was never started."""
    if not file.exists() or not (number := file.read_text()):
        return True
    for _ in range(100):
        try:
            if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def measured(text: str) -> list[str]:
    return re.findall(r"^MEASURED (.*)$", text, re.MULTILINE)


def titles(result: dict) -> list[str]:
    return [record["title"] for record in result["records"] if "failed" not in record]


def is_done(out: Path) -> bool:
    """Whether both files are there and nothing of a run that has not ended."""
    return out.is_dir() and sorted(path.name for path in out.iterdir()) == [
        "a-card.json", "a-card.md",
    ]  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_at_random_points_it_loses_nothing(tmp_path: Path, how: signal.Signals) -> None:
    command, source = Command(tmp_path), random.Random(int(how))
    seen: list[str] = []
    arguments: list[str] = []
    for _ in range(5):
        if is_done(command.out):
            break  # A fast machine was done before the signal came.
        process = command.start(*arguments)
        time.sleep(source.uniform(0.2, 0.8))
        process.send_signal(how)
        text = process.communicate(timeout=60)[0]
        assert is_gone(tmp_path / "bench" / "pid")
        seen += measured(text)
        # What the journal holds is what --append goes on from; the files beside it may be a
        # record behind where nobody was left to write them.
        file = command.out / "a-card-partial.json"
        if file.exists():
            arguments = ["--append", str(file)]
            if how == signal.SIGTERM:
                assert set(seen) <= set(titles(command.result("a-card-partial")))
    if not is_done(command.out):
        status, text = command.run(*arguments)
        seen += measured(text)
        assert status == 0, text
    found = command.result("a-card")
    wanted = {f"{section} case {number}" for section in SECTIONS for number in range(CASES)}
    assert sorted(titles(found)) == sorted(wanted)
    assert {entry["status"] for entry in found["sections"].values()} == {"passed"}
    assert is_done(command.out), sorted(command.out.iterdir())
    # Nothing that was reported was measured again.
    assert len(seen) == len(set(seen))


def test_a_signal_that_comes_while_the_results_are_put_together_is_late(tmp_path: Path) -> None:
    command = Command(tmp_path)
    late = """
import os, signal
from bench import outputs
real = outputs.replace

def replace(path, text):
    if path.name == "a-card.md":
        os.kill(os.getpid(), signal.SIGTERM)
    real(path, text)

outputs.replace = replace
sys.exit("""
    command.driver.write_text(command.driver.read_text().replace("sys.exit(", late))
    status, text = command.run()
    assert status == 0, text
    assert is_done(command.out), sorted(command.out.iterdir())


def test_a_machine_that_is_not_described_in_time_is_measured(tmp_path: Path) -> None:
    command = Command(tmp_path)
    known = 'gpu.facts = lambda device, scratch: {"name": "A Card", "date": "today"}'
    slow = "import time; time.sleep(60)"
    hangs = f"gpu.FACTS_SECONDS = 0.3\ngpu.python = lambda *_: [sys.executable, '-c', {slow!r}]"
    driver = command.driver.read_text()
    assert known in driver
    command.driver.write_text(driver.replace(known, hangs))
    status, text = command.run()
    assert status == 0, text
    assert "could not be described" in text
    assert len(titles(command.result("unknown-device"))) == len(SECTIONS) * CASES


def test_a_case_that_ends_its_process_takes_no_other_with_it(tmp_path: Path) -> None:
    command = Command(tmp_path)
    status, text = command.run(CRASH="gram case 2")
    found = command.result("a-card")
    assert status == 1, text
    assert found["sections"]["gram"]["status"] == "failed"
    assert found["sections"]["fisher"]["status"] == "passed"
    assert len(titles(found)) == len(SECTIONS) * CASES - 1
    (failed,) = [record for record in found["records"] if "failed" in record]
    assert failed["section"] == "gram"
    assert "signal 11" in failed["failed"]


def test_what_there_is_no_time_for_is_left_to_the_next_command(tmp_path: Path) -> None:
    command = Command(tmp_path, least=1000)
    status, text = command.run("--seconds", "100")
    assert status == 0, text
    first = command.result("a-card-partial")
    assert "gram: not reached" in text
    assert set(first["sections"]) == {"inverse"}
    append = ("--append", str(command.out / "a-card-partial.json"))
    status, text = command.run("--seconds", "5000", *append)
    assert status == 0, text
    assert not [title for title in measured(text) if title.startswith("inverse")]
    assert len(titles(command.result("a-card"))) == len(SECTIONS) * CASES
    assert len(command.result("a-card")["runs"]) == 2


def test_what_was_not_reached_goes_before_what_was_tried() -> None:
    """Ten minutes a command: tests that were cut off, and would be again, must not take them."""
    without = "passed, but 7 test files need pydantic and were left out: make gpu-wheels"
    told = {"build": "passed", "tests": LATE, "inverse": FAILED, "compensation": PASSED,
            "gram": "interrupted", "perturbation": without, "merge": LATE,
            "fisher": "skipped: pydantic is not installed"}  # fmt: skip
    earlier = {"sections": {name: {"status": status} for name, status in told.items()}}
    found = chosen(None, earlier)
    tried = ["tests", "merge", "inverse", "perturbation"]
    assert found[:3] == ["build", "gram", "fisher"]
    assert found[-4:] == tried
    assert set(found) == set(sections.SECTIONS) - {"compensation"}
    assert chosen(["merge", "build"], earlier) == ["build", "merge"]


def test_commands_for_some_sections_do_not_overwrite_each_other(tmp_path: Path) -> None:
    command = Command(tmp_path)
    for section in ("inverse", "gram"):
        assert command.run("--sections", section)[0] == 0
    found = [titles(command.result(f"a-card-partial{end}")) for end in ("", "-2")]
    assert [one[0].split()[0] for one in found] == ["inverse", "gram"]


def test_an_append_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    command = Command(tmp_path)
    (tmp_path / "other.json").write_text("[]")
    status, text = command.run("--append", str(tmp_path / "other.json"))
    assert status == 2
    assert "not results of make gpu" in text
    assert not command.out.exists()


def with_a_child(folder: Path) -> list[str]:
    """A command that starts another, whose number it writes down."""
    script = folder / "parent.py"
    script.write_text(
        "import pathlib, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"part = pathlib.Path({str(folder / 'part')!r})\n"
        "part.write_text(str(inner.pid))\n"
        "part.rename(part.with_name('pid'))\n"
        "time.sleep(60)\n"
    )
    return python(str(script))


def test_a_command_past_its_time_is_killed_with_its_children(tmp_path: Path) -> None:
    ticks: list[int] = []
    assert child(with_a_child(tmp_path), 1.2, tick=lambda: ticks.append(1)) is None
    assert ticks
    assert (tmp_path / "pid").exists() and is_gone(tmp_path / "pid")


def test_what_a_child_has_started_does_not_outlive_a_killed_command(tmp_path: Path) -> None:
    """Such as a compiler, or what a sanitizer watches: the next command would be beside it."""
    command = f"from bench.children import child; child({with_a_child(tmp_path)!r}, 60)"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=ROOT)
    while not (tmp_path / "pid").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert is_gone(tmp_path / "pid")
