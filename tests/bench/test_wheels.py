"""Packages carried to a machine that lacks them."""

import importlib.util
import os
import sys
import zipfile
from pathlib import Path

import pytest

from bench import checks, wheels
from bench.checks import PIPELINE
from bench.context import PASSED, Context, is_bad
from bench.lean import ROOT

OWN = f"cp{sys.version_info.major}{sys.version_info.minor}"


def write(folder: Path, name: str, tag: str = "py3-none-any") -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr("tests/__init__.py", "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels of packages that no machine has."""
    monkeypatch.setattr(wheels, "NEEDED_BY", {"zz_one": ("zz_one", "zz_two")})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def test_what_is_missing_is_unpacked_for_this_process_and_its_children(folder, tmp_path):
    write(folder, "zz_one", f"{OWN}-{OWN}-manylinux_2_17_{os.uname().machine}")
    write(folder, "zz_two")
    assert wheels.carry(tmp_path / "packages", folder) == (
        "packages: carried zz_one-1.0, zz_two-1.0"
    )
    assert importlib.util.find_spec("zz_two") is not None
    unpacked = tmp_path / "packages" / "zz_one"
    assert os.environ["PYTHONPATH"] == f"{unpacked}{os.pathsep}elsewhere"
    assert (unpacked / "zz_two" / "__init__.py").exists()
    assert not (unpacked / "tests").exists()


def test_a_wheel_for_another_python_is_named(folder, tmp_path):
    write(folder, "zz_one", "cp38-cp38-manylinux_2_17_x86_64")
    write(folder, "zz_two")
    found = wheels.carry(tmp_path / "packages", folder)
    assert "zz_one-1.0-cp38" in found
    assert "make gpu-wheels" in found
    assert importlib.util.find_spec("zz_two") is None


def test_half_of_what_is_needed_is_not_used(folder, tmp_path):
    write(folder, "zz_one")
    assert "missing and not carried: zz_one" in wheels.carry(tmp_path / "packages", folder)
    assert importlib.util.find_spec("zz_one") is None


@pytest.mark.parametrize("bytes_left", [0, 40, -30])
def test_a_damaged_wheel_is_named_and_ends_nothing(bytes_left, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(wheels.NEEDED_BY, "zz_other", ("zz_other",))
    for name in ("zz_one", "zz_two", "zz_other"):
        write(folder, name)
    damaged = folder / "zz_two-1.0-py3-none-any.whl"
    damaged.write_bytes(damaged.read_bytes()[:bytes_left])
    found = wheels.carry(tmp_path / "packages", folder)
    assert found.startswith("packages: carried zz_other-1.0; missing and not carried: zz_one; ")
    assert f"{damaged.name} cannot be unpacked" in found
    assert importlib.util.find_spec("zz_other") is not None
    # Half of a package would fail where it is imported.
    assert importlib.util.find_spec("zz_one") is None


def test_the_list_has_every_package_that_is_looked_for():
    listed = (ROOT / "bench" / "wheels.txt").read_text().replace("-", "_")
    for name in (name for group in wheels.NEEDED_BY.values() for name in group):
        assert f"\n{name}=" in listed or f"\n{name}>" in listed, name


@pytest.mark.parametrize("complete", [True, False])
def test_tests_that_need_a_missing_package_are_counted(complete, tmp_path, monkeypatch):
    ran: list[list[str]] = []

    class Pretended(Context):
        def child(self, command, seconds=None, **extra):
            ran.append(list(command))
            return 0

    monkeypatch.setattr("bench.checks.settings_available", lambda: complete)
    journal: object = None
    found = checks.tests(Pretended("cuda", False, tmp_path, journal, 1e9, {}, lambda: None))  # pyright: ignore[reportArgumentType]
    assert not is_bad(found)
    if complete:
        assert found == PASSED
        assert {"tests/pipeline/test_restoring.py", "tests/curvature/test_passes.py"} <= set(ran[0])
    else:
        assert found.startswith(f"passed, but {len(PIPELINE)} test files need pydantic")
    assert all((ROOT / path).exists() for path in PIPELINE)
