"""Section "build": what it says when the extension cannot be built."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import build, inverse


def test_a_failed_build_is_named_and_the_rest_is_still_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build", "cuda"])
    monkeypatch.setattr(build.torch.cuda, "get_device_capability", lambda: (9, 0))
    ran = []

    def run(command, **settings):
        ran.append(settings["env"]["HCNR_CUDA_ARCHS"])
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", run)
    assert build.main() == 1
    said = capsys.readouterr().out
    assert "not built: its build ended with status 3" in said
    assert "perturbation" in said
    assert ran == ["90a"]


def test_missing_headers_are_named(monkeypatch):
    monkeypatch.setattr(build.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    assert "/nowhere/Python.h is missing" in (build.compile_extension("cuda") or "")


def test_a_row_of_the_extension_fails_without_it(monkeypatch):
    """Instead of timing torch beside itself."""
    monkeypatch.setattr(inverse.native, "unavailable", lambda *_: "not built")
    with pytest.raises(RuntimeError, match=r"cannot be used \(not built\)"):
        inverse.require_extension(build.torch.device("cuda"), 64)
    inverse.require_extension(build.torch.device("cpu"), 64)
