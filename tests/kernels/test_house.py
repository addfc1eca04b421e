"""The rules of `hcnr_kernels`, off the syntax tree: who may import whom, how it is laid out."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "kernels" / "hcnr_kernels"
MOST_FILES = 15
SHARED = ("hcnr_kernels.triton", "hcnr_kernels.library", "hcnr_kernels.checks")


def name_of(path: Path) -> str:
    """Dotted name of a module of the library."""
    parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Modules that a file names in its imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


EDGES = {name: set(imported(path)) for name, path in MODULES.items()}


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_there_is_something_to_look_at() -> None:
    assert {"hcnr_kernels", "hcnr_kernels.ops.fisher.triton"} <= set(MODULES)
    assert "hcnr_kernels.library" in EDGES["hcnr_kernels.ops.merge"]
    assert "hcnr_kernels.native" in EDGES["hcnr_kernels.library"]


@pytest.mark.parametrize("package", ["hcnr", "transformers"])
def test_nothing_from_above_is_imported(package: str) -> None:
    found = {name: {one for one in edges if inside(one, package)} for name, edges in EDGES.items()}
    assert not any(found.values()), found


def test_modules_import_in_no_circle() -> None:
    own = {name: edges & set(MODULES) for name, edges in EDGES.items()}
    try:
        TopologicalSorter(own).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_testing_imports_testing() -> None:
    files = [*LIBRARY.rglob("*.py"), *(ROOT / "hcnr").rglob("*.py")]
    outside = [path for path in files if LIBRARY / "testing" not in path.parents]
    assert len(outside) > 50
    testing = "hcnr_kernels.testing"
    assert [p for p in outside if any(inside(one, testing) for one in imported(p))] == []


def test_what_the_families_share_knows_no_family() -> None:
    for name, edges in EDGES.items():
        if any(inside(name, shared) for shared in SHARED):
            assert not any(inside(one, "hcnr_kernels.ops") for one in edges), name


def test_triton_is_imported_by_kernels_alone() -> None:
    """A family's `__init__` names its Triton module in a string: it is imported when it is run."""
    kernels = {name for name, edges in EDGES.items() if "triton" in edges}
    users = {name for name, edges in EDGES.items() if edges & kernels}
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
