"""The rules of `hcnr_kernels`, off the syntax tree: who may import whom, how it is laid out."""

import functools
from pathlib import Path

import pytest

from imports import circle, imported, modules_of

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "kernels" / "hcnr_kernels"
MOST_FILES = 15
SHARED = ("hcnr_kernels.triton", "hcnr_kernels.library", "hcnr_kernels.checks")


MODULES = modules_of(LIBRARY)


@functools.cache
def all_imports() -> dict[str, set[str]]:
    """What each module imports; read once a test asks for it."""
    return {name: set(imported(path, MODULES)) for name, path in MODULES.items()}


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_there_is_something_to_look_at() -> None:
    assert {"hcnr_kernels", "hcnr_kernels.ops.fisher.triton"} <= set(MODULES)
    assert "hcnr_kernels.library" in all_imports()["hcnr_kernels.ops.merge"]
    assert "hcnr_kernels.native" in all_imports()["hcnr_kernels.library"]


@pytest.mark.parametrize("package", ["hcnr", "transformers"])
def test_nothing_from_above_is_imported(package: str) -> None:
    found = {
        name: {one for one in edges if inside(one, package)}
        for name, edges in all_imports().items()
    }
    assert not any(found.values()), found


def test_modules_import_in_no_circle() -> None:
    assert circle(all_imports()) == ""


def test_only_testing_imports_testing() -> None:
    files = [*LIBRARY.rglob("*.py"), *(ROOT / "hcnr").rglob("*.py")]
    outside = [path for path in files if LIBRARY / "testing" not in path.parents]
    assert len(outside) > 50
    testing = "hcnr_kernels.testing"
    assert [p for p in outside if any(inside(one, testing) for one in imported(p, MODULES))] == []


def test_what_the_families_share_knows_no_family() -> None:
    for name, edges in all_imports().items():
        if any(inside(name, shared) for shared in SHARED):
            assert not any(inside(one, "hcnr_kernels.ops") for one in edges), name


def test_triton_is_imported_by_kernels_alone() -> None:
    """A family's `__init__` names its Triton module in a string: it is imported when it is run."""
    kernels = {name for name, edges in all_imports().items() if "triton" in edges}
    users = {name for name, edges in all_imports().items() if edges & kernels}
    allowed = kernels | {"hcnr_kernels.ops.fisher.triton"}
    assert users <= allowed, users - allowed
    assert not any(path.name == "__init__.py" for path in (MODULES[name] for name in kernels))


def test_folders_are_packages_and_small() -> None:
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        files = [path.name for path in folder.glob("*.py")]
        assert "__init__.py" in files, folder
        assert len(files) <= MOST_FILES, folder


def test_a_family_is_laid_out_like_the_others() -> None:
    for folder in (LIBRARY / "ops").iterdir():
        if (folder / "__init__.py").exists() and folder.name != "spectral":
            assert (folder / "vectorised.py").exists(), folder
