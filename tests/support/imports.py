"""Who imports whom, off the syntax tree: for the tests that keep a package's rules."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def modules_of(library: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module of a package."""

    def name_of(path: Path) -> str:
        parts = path.relative_to(library.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    return {name_of(path): path for path in sorted(library.rglob("*.py"))}


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules that a file imports, inside of functions and for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module


def circle(edges: Mapping[str, set[str]]) -> str:
    """Modules that import each other in a circle, with arrows between; empty where none do."""
    own = {name: others & set(edges) for name, others in edges.items()}
    try:
        TopologicalSorter(own).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return ""
