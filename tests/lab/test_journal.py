import math
from pathlib import Path

import pytest

from hcnr.errors import OutputError
from hcnr.lab.arena import Marks
from hcnr.lab.journal import Journal

MARKS = Marks(50.0, 10.0, 2.0, 80.0, 95.0, {"names": {"f1": 50.0}})


def test_what_was_added_is_there_again(tmp_path: Path):
    path = tmp_path / "seed-0.jsonl"
    journal = Journal(path, "pair")
    assert journal.get("a", "validation") is None
    journal.add("a", "validation", MARKS, 1.5)
    undefined = Marks(0.0, 0.0, 0.0, 0.0, math.nan, {})
    journal.add("b", "evaluated", undefined, 2.5)
    for found in (journal, Journal(path, "pair")):
        assert found.get("a", "validation") == (MARKS, 1.5)
        assert found.get("a", "evaluated") is None
        known = found.get("b", "evaluated")
        assert known is not None and math.isnan(known[0].retention) and known[1] == 2.5


def test_a_line_cut_short_is_dropped_and_the_rest_goes_on(tmp_path: Path):
    path = tmp_path / "seed-0.jsonl"
    Journal(path, "pair").add("a", "validation", MARKS, 1.5)
    with path.open("a") as file:
        file.write('{"candidate": "b", "part": "val')
    journal = Journal(path, "pair")
    journal.add("c", "validation", MARKS, 3.5)
    again = Journal(path, "pair")
    assert [again.get(name, "validation") is not None for name in "abc"] == [True, False, True]


def test_another_pairs_journal_is_refused_and_kept(tmp_path: Path):
    path = tmp_path / "seed-0.jsonl"
    Journal(path, "pair").add("a", "validation", MARKS, 1.5)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="another pair"):
        Journal(path, "other")
    assert path.read_bytes() == before
