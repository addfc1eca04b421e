"""The rules of `hcnr`, off the syntax tree: which floor imports which, how folders are laid out."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import hcnr
from imports import circle, imported, modules_of

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "hcnr"
MOST_FILES = 20
FLOORS = (
    "_version", "errors", "progress", "cache", "plugins", "versions", "output", "hub",
    "directories", "ranks", "kinds", "settings", "yaml_file", "config", "stats", "checkpoint",
    "models", "detectors", "data", "curvature", "choosing", "record", "repair", "pipeline",
    "plan", "tuning", "benchmarks", "evaluation", "probes", "search", "report", "guided", "demo",
    "info", "lab", "commands", "cli", "__main__",
)  # fmt: skip
"""Folders and modules of `hcnr`, from the ground up: each imports only what stands before it."""
USES_THE_PUBLIC_API = ("guided", "demo", "commands", "cli")
"""What may call `hcnr.restore` and its like by their public names."""


MODULES = modules_of(LIBRARY)
EDGES = {name: set(imported(path, MODULES)) for name, path in MODULES.items()}


def floor_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_floor() -> None:
    found = {floor_of(name) for name in MODULES if name != "hcnr"}
    assert found == set(FLOORS)
    assert "hcnr.models.pair" in EDGES["hcnr.repair.repairs"]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_lower_ones(floor: str) -> None:
    lower = {*FLOORS[: FLOORS.index(floor)], floor}
    for name, edges in EDGES.items():
        if name == "hcnr" or floor_of(name) != floor:
            continue
        own = {edge for edge in edges if edge.split(".")[0] == "hcnr"}
        if floor in USES_THE_PUBLIC_API:
            own.discard("hcnr")
        assert "hcnr" not in own, f"{name} imports the public API, which stands above it"
        above = sorted(edge for edge in own if floor_of(edge) not in lower)
        assert not above, f"{name} imports {', '.join(above)}"


def test_modules_import_in_no_circle() -> None:
    assert circle({name: edges for name, edges in EDGES.items() if name != "hcnr"}) == ""


def test_triton_is_left_to_the_kernels() -> None:
    for name, edges in EDGES.items():
        assert not any(edge.split(".")[0] == "triton" for edge in edges), name


def test_folders_are_small_and_bear_no_name_of_a_function() -> None:
    sizes = Counter(path.parent for path in MODULES.values())
    assert sizes[LIBRARY] > 0
    assert {str(folder): n for folder, n in sizes.items() if n > MOST_FILES} == {}
    folders = {folder.name for folder in sizes} - {"hcnr"}
    assert not folders & set(hcnr.__all__)


def test_a_class_name_is_defined_once() -> None:
    places = defaultdict(list)
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {one: many for one, many in places.items() if len(many) > 1} == {}
