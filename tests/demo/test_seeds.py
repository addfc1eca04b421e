import dataclasses
import json

import pytest
from rich.console import Console

from hcnr.demo.evaluation import Evaluation
from hcnr.demo.interpolation import InterpolationPoint
from hcnr.demo.seeds import MOST_SEEDS, SeedsTable, Spread
from hcnr.demo.table import DemoTable, RepairRow


def _table(seed: int, f1: float, rival: float | None) -> DemoTable:
    point = (
        None
        if rival is None
        else InterpolationPoint(0.2, Evaluation(rival, rival - 9.0, 1.0, 90.0, 80.0))
    )
    rows = [
        RepairRow("base", Evaluation(80.0, 70.0, 0.0, 100.0, 0.0)),
        RepairRow("sum (paper)", Evaluation(f1, 50.0, 2.0, 95.0, 70.0), point),
        RepairRow("balanced", Evaluation(f1 + 9, 60.0, 2.5, 95.0, 99.0), point, best=True),
    ]
    if seed != 1:
        rows.append(RepairRow("interpolation", Evaluation(1.0, 1.0, 1.0, 1.0, 1.0)))
    facts = {"parameters": 870_000, "recommendation": {"word": "use" if seed else "do not use"}}
    return DemoTable(rows, Evaluation(66.6, 100.0, 100.0, 0.0, 0.0), [], facts)


TABLE = SeedsTable({0: _table(0, 61.0, 50.0), 1: _table(1, 62.0, 53.0), 2: _table(2, 63.0, 56.0)})


def test_mean_and_interval_of_hand_worked_values():
    found = Spread((61.0, 62.0, 63.0))
    assert found.mean == 62.0
    # Deviation 1, standard error 1 / sqrt(3), t = 4.303 with 2 degrees of freedom.
    assert found.half_width == pytest.approx(4.303 * 0.577350, rel=1e-5)
    assert Spread((5.0, 5.0)).half_width == 0.0


@pytest.mark.parametrize("n", range(2, MOST_SEEDS + 1))
def test_the_interval_is_that_of_scipy(n: int):
    stats = pytest.importorskip("scipy.stats")
    values = [3.0 * i % 7 for i in range(n)]
    low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
    found = Spread(tuple(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high), rel=1e-3, abs=1e-3
    )


def test_figures_are_taken_seed_by_seed():
    figures = TABLE.row("sum").figures
    assert figures["honesty_f1"].values == (61.0, 62.0, 63.0)
    assert figures["rival_delta"].values == (40.0, 43.0, 46.0)
    assert figures["lead"].values == (8.0, 5.0, 2.0)
    assert TABLE.row("sum").cells(" ")[1:5] == ["+48.0 ±0.0", "50.0 ±0.0", "2.0 ±0.0", "62.0 ±2.5"]
    assert TABLE.row("sum").cells(" ")[-1] == "+5.0 ±7.5"


def test_what_a_seed_lacks_is_left_out_rather_than_averaged_over_fewer():
    assert [row.method for row in TABLE.rows] == ["base", "sum (paper)", "balanced"]
    without = SeedsTable({**TABLE.tables, 3: _table(3, 64.0, None)})
    assert "honesty_f1" in without.row("sum").figures
    assert not {"rival_delta", "lead"} & without.row("sum").figures.keys()
    assert without.row("sum").cells(" ")[-2:] == ["", ""]


def test_it_fits_a_terminal_of_80_columns_and_says_how_it_was_made():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(TABLE.to_rich())
    text = " ".join(capture.get().split())
    assert "…" not in text
    assert "sweep's choice, by seed: do not use (0), use (1), use (2)." in text
    for words in ("3 seeds", "sum (paper)", "±2.5", "t at 2 degrees of freedom", "wide", "66.6"):
        assert words in text


def test_markdown_and_json_carry_the_same():
    lines = TABLE.to_markdown().splitlines()
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[4].startswith("| **balanced** | **+57.5 ±0.0** |")
    found = json.loads(json.dumps(TABLE.as_dict()))
    assert found["seeds"] == [0, 1, 2]
    row = found["rows"][2]
    assert row["method"] == "balanced"
    assert row["honesty_f1"]["values"] == [70.0, 71.0, 72.0]
    assert row["honesty_f1"]["mean"] == 71.0
    assert dataclasses.fields(Evaluation)[0].name in row
