"""The notebooks of `examples/`, executed as they are."""

import ast
import contextlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))
TOOLS = ("nbformat", "nbclient", "ipykernel")
MISSING = [name for name in TOOLS if importlib.util.find_spec(name) is None]


def execute(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last expression, as a notebook would show it."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def cells_of(path: Path, kind: str) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == kind]


def test_notebooks_are_kept_without_outputs():
    assert [path.name for path in NOTEBOOKS] == ["repair.ipynb"]
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert cell["cell_type"] == "markdown" or not cell["outputs"]
            assert cell.get("execution_count") is None


@pytest.mark.lab
def test_the_repair_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = NOTEBOOKS
    names: dict[str, Any] = {}
    shown, printed = [], io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in cells_of(path, "code"):
            value = execute(cell, names)
            if value is not None:
                shown.append(getattr(value, "_repr_html_", value.__repr__)())
    for title in ("hcnr report", "Statistics", "Selection"):
        assert any(f"<b>{title}</b>" in text for text in shown)
    text = printed.getvalue()
    assert "verdict: " in text and "recommendation: " in text and "    tuned: " in text
    # Both kinds of questions are asked, so that there is something to decide by.
    assert "recommendation: unclear" not in text and "is undefined" not in text
    assert (tmp_path / "restored" / "report.html").is_file()
    metrics = json.loads((tmp_path / "restored" / "eval" / "metrics.json").read_text())
    assert metrics["recommendation"]["word"] in text


@pytest.mark.lab
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")
def test_a_kernel_runs_it_too(tmp_path):
    """Bars and tables as a notebook gets them, up to the questions, which need no kernel."""
    import nbformat  # pyright: ignore[reportMissingImports] (optional)
    from nbclient import NotebookClient  # pyright: ignore[reportMissingImports] (optional)

    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    places = [i for i, cell in enumerate(notebook.cells) if "## Did it work?" in cell.source]
    notebook.cells = notebook.cells[: places[0]]
    where = os.pathsep.join(path for path in sys.path if path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", where)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    html = "".join(one["data"].get("text/html", "") for one in outputs if "data" in one)
    assert "<b>hcnr report</b>" in html and "<code>done</code>" in html
    assert not [one for one in outputs if one["output_type"] == "error"]
    errors = "".join(one["text"] for one in outputs if one.get("name") == "stderr")
    assert "for Jupyter support" not in errors, "rich's bars would need ipywidgets"
