import math

import pytest

from hcnr.record.numbers import NONE
from hcnr.report.drawing.charts import HeatMap, PlaneChart, RowChart
from hcnr.report.drawing.svg import draw
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import gather

KEYS = {"spectrum", "spectrum-by-matrix", "directions", "terms", "axes"}


@pytest.fixture
def chart(make_run):
    """A chart of a report."""
    return lambda key, report: all_charts(gather(make_run(report=report)))[key]


def test_only_repairs_of_whole_matrices_have_them(make_run, invented):
    assert not KEYS & set(all_charts(gather(make_run())))


@pytest.mark.parametrize("kind", ["spectral", "natural", "spectral+natural"])
def test_every_kind_has_its_charts_with_their_numbers(make_run, invented, kind, tmp_path):
    charts = all_charts(gather(make_run(report=invented.two_sided(kind))))
    assert set(charts) & KEYS == (KEYS if kind == "spectral" else KEYS - {"directions"})
    assert "restored" not in charts, "no neurons were chosen"
    for key in KEYS & set(charts):
        table = charts[key].table
        assert table.rows and all(len(row) == len(table.heads) for row in table.rows)


def test_the_curve_is_what_the_matrices_keep(chart, invented):
    found = chart("spectrum", invented.two_sided())
    assert isinstance(found, PlaneChart)
    energy, kept = found.curves
    assert [point.x for point in kept.points] == pytest.approx([10.0**p for p in range(-7, 7)])
    filters = [3.16228 * p.x / (1 + 3.16228 * p.x) for p in kept.points]
    assert [point.y for point in kept.points] == pytest.approx([f**2 for f in filters])
    assert sum(point.y for point in energy.points) == pytest.approx(1)
    assert found.reference == pytest.approx(1 / 3.16228)
    assert [row[0] for row in found.table.rows][:4] == ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴"]


def one_matrix(invented, kind="natural", **spectrum):
    report = invented.two_sided(kind, 1)
    report["matrices"] = report["matrices"][:1]
    report["matrices"][0]["two_sided"]["spectrum"] |= spectrum
    return report


def test_a_step_into_the_void_does_not_flatten_the_curve(chart, invented):
    energy = [0.0] * 4 + [1e-9, 0.0, 1 - 1e-9] + [0.0] * 10
    kept = [0.0] * 4 + [70.0, 0.0, 1.2] + [0.0] * 10
    report = one_matrix(invented, energy=energy, kept=kept)
    found = chart("spectrum", report)
    _, curve = found.curves
    assert [point.y for point in curve.points] == [2.0, 1.2], "an empty bin has no point"
    assert "Shares above 2 are drawn there" in found.description
    assert [row[3] for row in found.table.rows] == ["70", NONE, "1.2"]
    assert found.reference is None
    heat = chart("spectrum-by-matrix", report)
    assert isinstance(heat, HeatMap)
    assert {where: cell.marked for where, cell in heat.cells.items()} == {
        (0, 0): True,
        (0, 2): True,
    }
    assert heat.mark == "above 1" and heat.full == 1.0


def test_open_bins_say_so(chart, invented):
    found = chart("spectrum", one_matrix(invented, energy=[1 / 17] * 17))
    assert (found.table.rows[0][0], found.table.rows[-1][0]) == ("≤10⁻⁸", "≥10⁸")


def test_few_matrices_have_a_row_each_and_many_share_one(chart, invented):
    few, many = (chart("spectrum-by-matrix", invented.two_sided(blocks=n)) for n in (8, 80))
    assert isinstance(few, HeatMap) and isinstance(many, HeatMap)
    assert few.rows[:3] == ["q_proj 4", "q_proj 5", "k_proj 4"] and len(few.rows) == 22
    assert many.rows == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                         "down_proj"]  # fmt: skip
    assert [row[0] for row in many.table.rows] == many.rows
    assert "hcnr_report.json has each" in many.description
    assert few.mark is None and len(few.cells) < len(few.rows) * len(few.columns)


def test_restored_directions_stand_where_the_matrix_does(chart, invented):
    report = invented.two_sided()
    found, perturbed = (chart(key, report) for key in ("directions", "perturbation"))
    assert isinstance(found, HeatMap)
    assert (found.rows, found.columns) == (perturbed.rows, perturbed.columns)
    marked = {where for where, cell in perturbed.cells.items() if cell.marked}
    assert set(found.cells) == marked
    share = report["matrices"][0]["two_sided"]["restored_share"]
    assert f"{share:.1%}" in [row[2] for row in found.table.rows]
    whole = report["summary"]["restored_share"]
    assert f"{whole:.1%} over all repaired matrices" in found.description
    assert "R_IW" in found.description


def test_both_terms_are_percent(chart, invented):
    report = one_matrix(invented)
    report["matrices"][0]["two_sided"] |= {"honesty_left": 0.25, "task_lost": 0.031}
    found = chart("terms", report)
    assert isinstance(found, RowChart)
    assert [(m.role, m.value) for row in found.rows for m in row.marks] == [
        ("after", 25.0), ("before", pytest.approx(3.1)),
    ]  # fmt: skip
    assert found.table.rows[0][1:] == ["25.00%", "3.10%"]


def test_raised_damping_has_its_own_marks(chart, invented):
    report = invented.two_sided()
    plain = chart("axes", report)
    assert [role for role, _ in plain.legend] == ["after", "base"]
    for place, axis in enumerate(("after", "base")):
        marks = sorted(m.value for row in plain.rows for m in row.marks if m.role == axis)
        known = sorted(r["two_sided"]["condition"][place] for r in report["matrices"])
        assert marks == pytest.approx(known)
    report["matrices"][0]["two_sided"] |= {"damping": [0.01, 0.1], "condition": [50.0, 70.0]}
    report["matrices"][1]["two_sided"] |= {"condition": ["inf", 9.0]}
    found = chart("axes", report)
    assert [m.value for row in found.rows for m in row.marks if m.role == "alert"] == [70.0]
    roles = [mark.role for row in found.rows for mark in row.marks]
    assert (roles.count("after"), roles.count("base")) == (20, 21)
    assert all(math.isfinite(mark.value) for row in found.rows for mark in row.marks)
    rows = {row[0]: row[1:] for row in found.table.rows}
    assert rows[report["matrices"][0]["name"]] == [
        "50", "70", "0.01", "0.1", "dense", "dense", "yes",
    ]  # fmt: skip
    assert rows[report["matrices"][1]["name"]][0] == "inf"
    assert rows[report["matrices"][1]["name"]][4:] == ["dense", "tokens", ""]


@pytest.mark.parametrize("kind", ["spectral", "natural"])
def test_they_become_pictures(make_run, invented, kind):
    charts = all_charts(gather(make_run(report=invented.two_sided(kind, 1))))
    for key in KEYS & set(charts):
        assert len(draw(charts[key], 736)) > 1500
