"""The table of counts: what it counts, that this checkout comes to it, what a change of it says."""

import json
import math
import subprocess

import pytest
import torch

pytest.importorskip("triton")

from bench.lean import ROOT
from bench.tracking import compare, page, plot, table
from bench.tracking.cases import tracked_calls
from bench.tracking.counting import count
from hcnr_kernels.ops.merge import triton as merge


def test_counts_are_as_they_are_committed():
    committed = table.load(table.COUNTS)
    if reason := table.other_versions(committed):
        pytest.skip(reason)
    assert table.differences(committed["rows"], table.present_counts()["rows"]) == []


def test_compiled_kernels_are_as_they_are_committed():
    committed = table.load(table.RESOURCES)
    if reason := table.no_compiler() or table.other_versions(committed):
        pytest.skip(reason)
    assert table.differences(committed["rows"], table.present_resources()["rows"]) == []


def test_a_change_that_doubles_launches_is_told(monkeypatch):
    once = merge.launch

    def twice(*args, **kwargs):
        once(*args, **kwargs)
        once(*args, **kwargs)

    monkeypatch.setattr(merge, "launch", twice)
    title, counted = next(
        (row.title, row.count()._asdict()) for row in tracked_calls() if row.name == "merge"
    )
    committed = table.load(table.COUNTS)["rows"]
    told = table.differences({title: committed[title]}, {title: counted})
    assert f"{title}: launches 1 -> 2 (2x)" in told


def test_rows_that_come_and_go_are_told():
    assert table.differences({"old": {"launches": 1}}, {"new": {"launches": 1}}) == [
        "old: no longer counted",
        "new: not in the table yet",
    ]


def test_a_product_is_counted_as_what_it_is():
    a, b = (torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta"))
    found = count(lambda: a @ b)
    assert found == (1, 2 * 3 * 5 * 7, 4 * (15 + 35 + 21), 0, 0)


def test_what_is_changed_in_place_is_counted_twice_and_views_start_nothing():
    total, a = torch.empty(4, 4, device="meta"), torch.empty(4, 4, device="meta")
    assert count(lambda: total.addmm_(a.T, a)).launches == 1
    assert count(lambda: total.addmm_(a.T, a)).operations == 2 * 4**3
    # `a` and its transpose are two tensors of one product; total is read and written.
    assert count(lambda: total.addmm_(a.T, a)).nbytes == 4 * 16 * 4
    assert count(lambda: (total.T, total[1:], total.view(16), torch.empty_like(total))) == (
        0, 0, 0, 0, 0,
    )  # fmt: skip


def test_values_that_the_host_asks_for_are_counted():
    assert count(lambda: bool(torch.ones(3).sum() > 2)).waits == 1


def test_the_page_is_what_the_files_say():
    counts, resources = table.load(table.COUNTS), table.load(table.RESOURCES)
    history = json.loads(table.HISTORY.read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.fill(text, page.generated(counts, resources, history)) == text
    assert page.PLOT.read_text(encoding="utf-8") == plot.plotted(history)
    latest = {}
    for point in history:
        latest.update(point["rows"])
    names = ("launches", "operations", "nbytes", "programs")
    for title, row in counts["rows"].items():
        assert latest[title] == [row[name] for name in names], title


def test_a_page_without_a_marker_is_refused():
    with pytest.raises(ValueError, match="no markers <!-- counts -->"):
        page.fill("text", {"counts": "table"})


def test_the_history_holds_what_changed():
    row = {"launches": 2, "operations": 8, "nbytes": 64, "programs": 0}
    history: list = []
    table.remember(history, {"a": row, "b": row}, "2026-01-01", "begun")
    table.remember(history, {"a": row, "b": row}, "2026-01-02", "nothing")
    table.remember(history, {"a": row, "b": {**row, "launches": 1}}, "2026-01-03", "fused")
    assert [(point["why"], list(point["rows"])) for point in history] == [
        ("begun", ["a", "b"]),
        ("fused", ["b"]),
    ]
    assert plot.series(history) == {"b": [[2, 8, 64, 0], [1, 8, 64, 0]]}
    drawn = plot.plotted(history)
    assert ">0.5x<" in drawn and ">b<" in drawn and ">a<" not in drawn


@pytest.mark.parametrize(("count", "rank"), [(6, 0), (8, 0), (9, 1), (21, 5)])
def test_the_interval_is_that_of_the_median(count, rank):
    """Ranks from the table of the sign test at 95 %."""
    values = [1.0 + place for place in range(count)]
    found = compare.interval(values[::-1])
    assert (found.low, found.high) == (values[rank], values[count - 1 - rank])
    assert found.low <= found.median <= found.high


def test_few_rounds_say_nothing():
    assert compare.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 0.0, math.inf)


class Timed:
    """A contender that always takes the same time, or says why it does not run."""

    def __init__(self, answer: float | str) -> None:
        self.answer = answer

    def time(self, index: int) -> float | str:
        return self.answer


def test_the_ratio_is_ours_over_theirs():
    found = compare.race(Timed(3.0), Timed(2.0), 0, rounds=9)
    assert found == (1.5, 1.5, 1.5) and compare.described(found).endswith("slower")
    assert compare.described(compare.race(Timed(2.0), Timed(4.0), 0, rounds=9)).endswith("faster")
    assert not compare.described(compare.race(Timed(2.0), Timed(2.0), 0, 9)).endswith("er")
    assert (
        compare.race(Timed(2.0), Timed("no such call"), 0, 9) == "does not run there: no such call"
    )


def test_two_revisions_are_raced(capsys):
    inside = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True)
    if inside.returncode:
        pytest.skip("no git checkout")
    assert compare.main(["HEAD", "--rounds", "6", "--only", "perturbation"]) == 0
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if line.startswith("perturbation, 2048")]
    assert "x  [" in line
    assert "counts, as committed:" in told
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True
    )
    assert "hcnr-compare-" not in listed.stdout


def test_a_revision_that_is_not_there_is_one_sentence():
    with pytest.raises(SystemExit, match="REF=no-such-revision names no commit"):
        compare.main(["no-such-revision"])
