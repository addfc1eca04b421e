"""docs/operators.md: what it shows runs, and what it names is there."""

import re

from pages import ROOT, blocks, run_blocks

PAGE = (ROOT / "docs" / "operators.md").read_text()


def test_a_stranger_can_run_the_first_part(capsys):
    own, _, _ = PAGE.partition("# In other tools")
    assert len(blocks(own)) >= 9
    run_blocks(own, {})
    assert "The curvature of my layer holds NaN" in capsys.readouterr().out


def test_every_import_of_the_second_part_exists():
    _, _, other = PAGE.partition("# In other tools")
    named = re.findall(r"from (integrations[.\w]+) import (.+)", other)
    assert len(named) >= 7
    for module, names in named:
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        for name in names.split(","):
            assert re.search(rf"^(def|class) {name.strip()}\b", source, re.MULTILINE), name


def test_adapters_are_thin():
    files = list((ROOT / "integrations").rglob("*.py"))
    assert len(files) > 15
    assert [f.name for f in files if len(f.read_text().splitlines()) >= 150] == []


def test_every_tool_has_its_example_and_section():
    tools = {path.parent.name for path in (ROOT / "integrations").glob("*/example.py")}
    assert {"mergekit", "peft", "trainer", "kronfluence"} <= tools
    for tool in tools:
        assert f"integrations.{tool}." in PAGE, tool
