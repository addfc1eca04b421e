"""What a release says in several places: its version, its extras, its templates."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hcnr
from pages import ROOT

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_version_is_one():
    assert CITATION["version"] == hcnr.__version__
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].split(" ")[0] == hcnr.__version__


def test_the_paper_is_cited():
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    (paper,) = CITATION["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2511.12991"
    assert len(paper["authors"]) == 7
    assert 'Paper = "https://arxiv.org/abs/2511.12991"' in PROJECT


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_forms(path: Path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form.keys() == {"blank_issues_enabled"}
        return
    assert form["name"] and form["description"] and form["body"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", name) for name in ids)


def test_the_dockerfile_asks_for_what_is_there():
    text = (ROOT / "Dockerfile").read_text()
    assert "has never been built" in text
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {
        "nvidia/cuda:13.0.2-devel-ubuntu24.04",
        "nvidia/cuda:13.0.2-base-ubuntu24.04",
    }
    (extras,) = re.findall(r"/src\[([\w,]+)\]", text)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE), extra


def test_tools_of_the_makefile_are_pinned():
    makefile = (ROOT / "Makefile").read_text()
    tools = re.search(r"\.venv-tools/bin/python -m pip .*?\n\t\t(.+)", makefile)
    assert tools is not None
    pinned = (ROOT / "constraints.txt").read_text()
    for tool in tools[1].split():
        assert f"\n{tool}==" in pinned, tool


def test_the_check_of_distributions_finds_faults(tmp_path: Path):
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import check_dist  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.pop(0)
    python = check_dist.modules(ROOT, "hcnr")
    python |= check_dist.modules(ROOT / "kernels", "hcnr_kernels")
    whole = check_dist.IN_WHEEL | python | {"hcnr-0.1.0.dist-info/METADATA"}
    assert "hcnr/_version.py" in whole and "hcnr_kernels/library.py" in whole
    assert check_dist.wheel_faults(whole | {"hcnr_kernels/_native.cpython-311.so"}) == []
    odd = (whole - {"hcnr/data/starter/kuq.jsonl"}) | {"tests/conftest.py"}
    assert check_dist.wheel_faults(odd) == [
        "the wheel lacks hcnr/data/starter/kuq.jsonl",
        "the wheel holds tests/conftest.py",
    ]
    faults = check_dist.source_faults({"bench/gpu.py", "csrc/host.cpp"})
    assert "the source distribution lacks csrc/device.cu" in faults
    assert "the source distribution lacks csrc/host.cpp" not in faults
    assert "the source distribution lacks kernels/hcnr_kernels/library.py" in faults
    assert "the source distribution holds bench/gpu.py" in faults
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "check_dist.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path} must hold one *.whl, not 0.\n"


HOOK = ROOT / "docs" / "site_hook.py"


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/a.md", "[x](b.md#c)", "[x](b.md#c)"),
        ("docs/a.md", "[x](../CHANGELOG.md)", "[x](CHANGELOG.md)"),
        ("docs/a.md", "[x](#c) [y](https://a.b/c)", "[x](#c) [y](https://a.b/c)"),
        ("CONTRIBUTING.md", "[x](docs/b.md#c)", "[x](b.md#c)"),
        ("experiments/trial/README.md", "[x](../../docs/b.md)", "[x](../../b.md)"),
        ("docs/a.md", "```\n[x](../b.md)\n```\n[x](../b.md)", "```\n[x](../b.md)\n```\n[x](b.md)"),
    ],
)
def test_links_of_the_site(source: str, text: str, expected: str):
    names: dict = {"__file__": str(HOOK), "__name__": "site_hook"}
    exec(compile(HOOK.read_text(), str(HOOK), "exec"), names)
    assert names["rewritten"](source, text) == expected
    assert all((ROOT / name).exists() for name in names["OUTSIDE"])
