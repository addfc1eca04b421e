"""The page of models is what its journal says; a few families are tried again."""

import json
from pathlib import Path

import pytest

from experiments.families.__main__ import PAGE, RESULTS
from experiments.families.checks import check
from experiments.families.page import counts_of, write
from experiments.families.tiny import families

DATA = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_journal(tmp_path: Path):
    write(tmp_path / "models.md", DATA)
    assert (tmp_path / "models.md").read_text() == PAGE.read_text()


def test_counts_add_up():
    counts = counts_of(DATA["families"])
    assert sum(counts.values()) == len(DATA["families"])
    assert not {"different", "traceback"} & set(counts)
    assert sum(n for result, n in counts.items() if result.startswith("exact")) >= 139


@pytest.mark.parametrize("family", ["bloom", "ctrl", "camembert"])
def test_a_family_is_still_exact(family: str):
    row = check(family, dict(families())[family])
    assert (row["result"], row["note"]) == ("exact", "")
    assert row["error"] < 1e-4
