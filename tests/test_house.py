"""The rules of `hcnr`, off the syntax tree: which floor imports which, how folders are laid out.

Lengths of functions and files are those of `hcnr_kernels` too.
"""

import ast
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import hcnr
from imports import circle, imported, modules_of
from sizes import sizes
from source_lines import kinds_of_lines, lines_of_code

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "hcnr"
MOST_FILES = 20
FLOORS = (
    "_version", "errors", "progress", "cache", "scratch", "plugins", "versions", "output", "hub",
    "directories", "ranks", "kinds", "detectors", "settings", "yaml_file", "config", "stats",
    "checkpoint", "models", "data", "curvature", "choosing", "record", "repair", "pipeline",
    "plan", "tuning", "benchmarks", "evaluation", "probes", "search", "report", "guided", "demo",
    "info", "lab", "commands", "cli", "__main__",
)  # fmt: skip
"""Folders and modules of `hcnr`, from the ground up: each imports only what stands before it."""
USES_THE_PUBLIC_API = ("guided", "demo", "commands", "cli")
"""What may call `hcnr.restore` and its like by their public names."""

MOST_LINES_OF_A_FUNCTION = 60
"""Of its body, without docstrings, comments and blank lines."""
MOST_LINES_OF_A_FILE = 300
LONGER = {
    "hcnr/checkpoint/output.py": (
        370,
        "an output that appears whole, beside its refusals",
    ),
    "hcnr/config/restore.py": (330, "the settings of a restoration, declared one below the other"),
    "hcnr/curvature/passes.py": (400, "the one pass engine"),
    "hcnr/curvature/selfcheck.py": (355, "one check: what it compares beside what it says"),
    "hcnr/curvature/spectral_bases.py": (
        390,
        "bases of one run: measured, factorised, kept, let go",
    ),
    "hcnr/pipeline/prices.py": (340, "a price for each step of the one list of stages"),
    "hcnr/pipeline/run.py": (370, "a method for each step of the one list of stages"),
    "hcnr/repair/selection.py": (
        380,
        "which neurons, and what refuses the statistics",
    ),
    "kernels/hcnr_kernels/testing/reference.py": (350, "the float64 twins of all operators"),
}
"""Files of more lines: the most that each may have, and why it is one file."""

MODULES = modules_of(LIBRARY)


@functools.cache
def all_imports() -> dict[str, set[str]]:
    """What each module imports; read once a test asks for it."""
    return {name: set(imported(path, MODULES)) for name, path in MODULES.items()}


def floor_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_floor() -> None:
    found = {floor_of(name) for name in MODULES if name != "hcnr"}
    assert found == set(FLOORS)
    assert "hcnr.models.pair" in all_imports()["hcnr.repair.repairs"]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_lower_ones(floor: str) -> None:
    lower = {*FLOORS[: FLOORS.index(floor)], floor}
    for name, edges in all_imports().items():
        if name == "hcnr" or floor_of(name) != floor:
            continue
        own = {edge for edge in edges if edge.split(".")[0] == "hcnr"}
        if floor in USES_THE_PUBLIC_API:
            own.discard("hcnr")
        assert "hcnr" not in own, f"{name} imports the public API, which stands above it"
        above = sorted(edge for edge in own if floor_of(edge) not in lower)
        assert not above, f"{name} imports {', '.join(above)}"


def test_modules_import_in_no_circle() -> None:
    assert circle({name: edges for name, edges in all_imports().items() if name != "hcnr"}) == ""


def test_triton_is_left_to_the_kernels() -> None:
    for name, edges in all_imports().items():
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


FILES = [
    path
    for library in (LIBRARY, ROOT / "kernels" / "hcnr_kernels")
    for path in sorted(library.rglob("*.py"))
]


def sizes_of_functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and lines of code of every function's body, of inner functions and methods too."""
    code = lines_of_code(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
            yield node.name, len(code.intersection(body))


def test_what_counts_as_a_line_of_code() -> None:
    source = '''
def outer(
    one,
):
    """Say what.

    And how.
    """
    # Why.
    text = """two
lines"""

    def inner():
        """Say."""
        return (
            text
        )  # done

    return inner
'''
    assert dict(sizes_of_functions(source)) == {"outer": 7, "inner": 3}
    assert kinds_of_lines(source) == {"signatures": 4, "statements": 6, "docstrings": 5}


def test_lines_are_counted_by_folder_and_kind() -> None:
    folders = sizes(LIBRARY)
    assert {*folders, "__main__"} >= {name for name in FLOORS if (LIBRARY / name).is_dir()}
    for counts in folders.values():
        parts = ("statements", "signatures", "imports", "declarations", "errors")
        assert counts["code"] == sum(counts[part] for part in parts) > 0
    source = "import os\n\nA = 1\n\n\nclass B:\n    c: int\n\n\nraise ValueError(\n    A\n)\n"
    assert kinds_of_lines(source) == Counter(
        imports=1, declarations=2, statements=1, errors=3, docstrings=0
    )


def test_functions_are_short() -> None:
    sizes = {
        f"{path.relative_to(ROOT)}: {name}": size
        for path in FILES
        for name, size in sizes_of_functions(path.read_text(encoding="utf-8"))
    }
    assert len(sizes) > 1000
    assert {name: n for name, n in sizes.items() if n > MOST_LINES_OF_A_FUNCTION} == {}


def test_files_are_short_or_say_why_not() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in FILES}
    assert LONGER.keys() <= sizes.keys()
    too_long = {
        name: n
        for name, n in sizes.items()
        if n > (LONGER[name][0] if name in LONGER else MOST_LINES_OF_A_FILE)
    }
    assert not too_long, "split these where two subjects live in one file, or say why in LONGER"
    short = [name for name in LONGER if sizes[name] <= MOST_LINES_OF_A_FILE]
    assert not short, "no longer long: take these out of LONGER"


SAY_NOTHING = {"found", "one", "many", "near", "far", "place", "thing", "given", "told", "said"}
"""No names of variables: they say that something is held, not what. One line may have them."""
NAMED_FOLDERS = ("hcnr", "kernels/hcnr_kernels", "experiments", "bench", "integrations", ".ci")
KEPT_NAMES = {("kernels/hcnr_kernels/checks.py", "found"), ("hcnr/evaluation/judged.py", "said")}
"""What an error says was found; a key of a file that users have."""


def variables(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of what statements assign and functions take; no comprehensions, no lambdas."""
    scopes: list[ast.AST] = [ast.parse(source)]
    while scopes:
        for node in ast.iter_child_nodes(scopes.pop()):
            if isinstance(node, ast.comprehension | ast.Lambda):
                continue
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.lineno, node.id
            if isinstance(node, ast.arg):
                yield node.lineno, node.arg
            scopes.append(node)


def test_what_counts_as_a_variable() -> None:
    source = (
        "def f(a, *, b):\n    for c in [d for d in a]:\n        with b as e:\n            g = e"
    )
    assert {name for _, name in variables(source)} == {"a", "b", "c", "e", "g"}


@pytest.mark.parametrize("folder", NAMED_FOLDERS)
def test_a_variable_says_what_it_holds(folder: str) -> None:
    named = {
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in variables(path.read_text(encoding="utf-8"))
        if name in SAY_NOTHING and (str(path.relative_to(ROOT)), name) not in KEPT_NAMES
    }
    assert not named, "call it by what it is: scores, rows, questions, path, matrices"


def raised_texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every error that is raised with a sentence, `{}` for what is filled in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = node.exc.args[0]
            if isinstance(text, ast.JoinedStr):
                parts = (getattr(part, "value", "") for part in text.values)
                yield node.lineno, "".join(p if isinstance(p, str) else "{}" for p in parts)
            elif isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield node.lineno, text.value


def test_errors_have_one_style() -> None:
    """A clause after the other, no capital at the beginning, no full stop at the end."""
    found = {
        f"{path.relative_to(ROOT)}:{line}": text
        for path in MODULES.values()
        for line, text in raised_texts(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 300
    assert {place: text for place, text in found.items() if text.rstrip().endswith(".")} == {}
    first = {place: text.split(" ")[0] for place, text in found.items()}
    assert {place: word for place, word in first.items() if word.istitle()} == {}
