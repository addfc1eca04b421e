"""What the machine is, where that takes too long or cannot be found out."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import facts, gpu
from bench.outputs import Outputs

SLOW = "import time; time.sleep(60)"
ENDS = "import sys; sys.exit(1)"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
WRITES = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text({!r})"
HALF = WRITES.format('{"name": "A Ca') + "; sys.exit(1)"
KNOWN = WRITES.format('{"name": "A Card"}')
NO_GPU = "import sys; sys.exit(2)"


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    """Let the process that describes the machine run other code."""

    def with_code(code: str) -> None:
        monkeypatch.setattr(gpu, "python", lambda *given: [sys.executable, "-c", code, *given])

    monkeypatch.setattr(gpu, "FACTS_SECONDS", 0.5)
    return with_code


@pytest.mark.parametrize("code", [SLOW, ENDS, CRASHES, HALF])
def test_what_cannot_be_found_out_is_said_and_ends_nothing(code, pretend, tmp_path, capsys):
    pretend(code)
    gpu.FACTS_SECONDS = 0.5 if code == SLOW else 60
    assert gpu.facts("cuda", tmp_path) == {"name": "unknown device"}
    status = {SLOW: None, CRASHES: -signal.SIGSEGV}.get(code, 1)
    assert f"could not be described (status {status})" in capsys.readouterr().out


def test_what_is_found_out_is_told_and_a_machine_without_a_gpu_is_refused(pretend, tmp_path):
    pretend(KNOWN)
    gpu.FACTS_SECONDS = 60
    assert gpu.facts("cuda", tmp_path) == {"name": "A Card"}
    pretend(NO_GPU)
    assert gpu.facts("cuda", tmp_path) == 2


def test_a_run_on_an_unknown_device_goes_on_and_is_gone_on_from(tmp_path):
    outputs = Outputs.open([tmp_path], {"name": "unknown device"})
    outputs.journal.add("record", section="gram", case="one", title="one")
    outputs.conclude(["gram", "merge"])
    place = tmp_path / "unknown-device-partial.json"
    earlier = json.loads(place.read_text())
    settings = gpu.argparse.Namespace(earlier=earlier, append=place, named=None, sections=["merge"])
    gpu.apart(settings, {"name": "A Card"})
    assert settings.append == place
    gpu.apart(settings, {"name": "unknown device"})
    assert settings.earlier is earlier


@pytest.mark.parametrize("failure", [subprocess.TimeoutExpired("tool", 30), OSError("no memory")])
def test_a_tool_that_hangs_or_does_not_start_has_no_answer(failure, monkeypatch):
    def run(*_: object, timeout: float, **__: object) -> None:
        assert timeout <= 30
        raise failure

    monkeypatch.setattr(facts.subprocess, "run", run)
    assert facts.answer(sys.executable, "--version") == ""


def test_the_facts_of_this_machine(tmp_path: Path):
    found = facts.facts(facts.torch.device("cpu"))
    assert found["name"] == "cpu dry run"
    assert found["kronfluence"] and found["torch"] == facts.version("torch")
