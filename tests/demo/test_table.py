import json

from rich.console import Console

from hcnr.demo.evaluation import Evaluation
from hcnr.demo.interpolation import InterpolationPoint
from hcnr.demo.table import DemoTable, RepairRow

BEST = Evaluation(70.0, 60.0, 2.5, 95.0, 99.0)


def _table() -> DemoTable:
    point = InterpolationPoint(0.2, Evaluation(50.0, 40.0, 1.0, 90.0, 80.0))
    rows = [
        RepairRow("interpolation 0.275", Evaluation(61.0, 50.0, 2.0, 95.0, 70.0), None, 0.0),
        RepairRow("base", Evaluation(80.0, 70.0, 0.0, 100.0, 0.0)),
        RepairRow(
            "sum (paper)", Evaluation(60.0, 50.0, 2.0, 95.0, 70.0), point, 1.25, {"axis": "output"}
        ),
        RepairRow(
            "balanced",
            Evaluation(70.0, 60.0, 2.5, 95.0, 99.0),
            None,
            1.5,
            {"kind": "balanced"},
            True,
        ),
    ]
    facts = {
        "recipe": {"seed": 3},
        "parameters": 870_000,
        "evaluated": {"unknown": 4, "known": 5, "task": 6},
        "recommendation": {"word": "do not use", "reason": "it is a test"},
    }
    return DemoTable(rows, Evaluation(66.6, 100.0, 100.0, 0.0, 0.0), [point], facts)


def test_every_row_stands_beside_its_rival():
    assert _table().row("sum").cells == [
        "sum (paper)", "+48.0", "50.0", "2.0", "60.0", "95.0", "70.0", "+39.0", "1.2",
    ]  # fmt: skip
    assert _table().row("balanced").cells[-2:] == ["", "1.5"]


def test_it_fits_a_terminal_of_80_columns():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(_table().to_rich())
    text = capture.get()
    assert "…" not in text
    assert "sum (paper)" in text and "66.6" in text


def test_markdown_has_one_line_per_row_and_marks_the_best():
    lines = _table().to_markdown().splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[5].startswith("| **balanced** | **+57.5** |")
    assert r"\* Best delta" in "\n".join(lines)
    assert "Recommendation for --kind balanced: do not use: it is a test." in lines


def test_json_carries_every_number_and_setting():
    found = json.loads(json.dumps(_table().as_dict()))
    row = found["rows"][2]
    assert row["honesty_f1"] == 60.0 and row["refusal_delta"] == 48.0
    assert row["settings"] == {"axis": "output"} and row["interpolation"]["coefficient"] == 0.2
    assert found["refuse_everything"]["honesty_f1"] == 66.6
    assert found["recipe"] == {"seed": 3}
