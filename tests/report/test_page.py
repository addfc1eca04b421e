import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hcnr.errors import DataError, OutputError
from hcnr.record.tables import Table
from hcnr.report import page
from hcnr.report.drawing.charts import PlaneChart, RowChart
from hcnr.report.drawing.svg import draw
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import gather
from hcnr.report.page import MOST_BYTES, html, write_html

VOID = frozenset({"meta", "br", "link", "col"})
KEYS = ["honesty", "task", "trade-off", "probe", "restored", "perturbation", "scores", "objective",
        "condition", "times"]  # fmt: skip


class Outline(HTMLParser):
    """Checks that elements nest, and collects ids, links and the text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.attributes, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_is_well_formed_and_says_the_verdict_first(full_run):
    outline = Outline(html(gather(full_run)))
    assert len(outline.ids) == len(set(outline.ids))
    headings = [tag for tag in outline.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1" and headings.count("h1") == 1
    said = (
        "hcnr report Use : the refusal delta rose from +12.2 to +42.6, while task accuracy fell by "
        "0.3 points. Its refusal delta is +30.4 (95% interval +28.2 to +32.6) points over tuned's,"
    )
    assert said in outline.text
    references = [v for k, v in outline.attributes if k in ("aria-labelledby", "aria-describedby")]
    assert {name for value in references for name in value.split()} <= set(outline.ids)


def test_a_minus_is_the_one_of_the_keyboard(full_run):
    text = html(gather(full_run))
    assert "\N{MINUS SIGN}" not in text and re.search(r"[( >]-\d", text)


def test_no_line_break_parts_an_option():
    said = page._whole_options("it <b>loses</b> -3.0; try --max-drop or (--task-weight 3)")
    assert said == (
        'it &lt;b&gt;loses&lt;/b&gt; -3.0; try <span class="option">--max-drop</span> or '
        '(<span class="option">--task-weight</span> 3)'
    )
    assert ".option { white-space: nowrap; }" in page.style()
    template = Path(page.__file__).with_name("page.html").read_text()
    for name in ("because", "note", "one.finding", "one.advice", "sweep.said"):
        assert f"{name}|whole_options" in template


def test_the_page_needs_nothing_else(full_run):
    text = html(gather(full_run))
    outline = Outline(text)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(outline.tags)
    assert not [k for k, _ in outline.attributes if k in ("src", "style") or k[:2] == "on"]
    places = [v for k, v in outline.attributes if k == "href"]
    assert places and {place[1:] for place in places} <= set(outline.ids)
    assert {place[0] for place in places} == {"#"}
    assert not re.search(r"url\(|@import|https?://", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in outline.attributes


def test_every_chart_is_there_with_its_numbers(full_run):
    run = gather(full_run)
    charts = all_charts(run)
    assert list(charts) == KEYS
    outline = Outline(html(run))
    assert outline.tags.count("figure") == len(KEYS)
    for key, chart in charts.items():
        assert f"chart-{key}" in outline.ids
        assert all(len(row) == len(chart.table.heads) for row in chart.table.rows)
        assert chart.table.rows
    assert "68.3 (66.7 to 69.9)" in outline.text, "an F1 with its interval, in a table"


def test_the_recommended_setting_is_named(full_run, invented):
    (best,) = (c["settings"] for c in invented.sweep()["candidates"] if c["recommended"])
    wanted = (
        "On its validation questions the sweep says use. "
        f"{best['compensation'].capitalize()}, in-weight {best['in_weight_ratio']}, "
        f"cross-weight {best['cross_weight_ratio']}: the best refusal delta"
    )
    assert wanted in " ".join(Outline(html(gather(full_run))).text.split())


def test_a_sweep_whose_best_is_not_to_be_used_recommends_none(make_run, invented):
    sweep = invented.sweep()
    sweep["recommended"].update(word="interpolate instead", reason="it does as well")
    run = gather(make_run(sweep=sweep))
    chart = all_charts(run)["trade-off"]
    assert chart.table.heads[-1] == "best candidate"
    text = Outline(html(run)).text
    assert "the sweep says interpolate instead" in text and "it does as well." in text
    assert "recommended" not in text


def test_a_sweep_from_before_the_delta_decided_is_refused(make_run, invented):
    """Such a file was chosen by F1 and has no word."""
    sweep = invented.sweep()
    del sweep["recommended"]["word"]
    with pytest.raises(DataError, match=r"sweep.json has no part 'recommended.word', expected one"):
        gather(make_run(sweep=sweep))


def test_hostile_names_are_only_text(make_run, invented):
    evil = "<script>alert(1)</script>\"'&"
    report, metrics, sweep = invented.report(), invented.metrics(), invented.sweep()
    report["pair"]["tuned"] = evil
    report["config"]["targets"] = [evil]
    report["warnings"] = [evil]
    report["data"]["honesty"]["source"] = evil
    report["matrices"][0]["device"] = evil
    report["perturbation"][f"model.layers.0.{evil}"] = 0.01
    report["seconds"][evil] = 1.0
    report["versions"][evil] = evil
    metrics["sets"][evil] = metrics["sets"]["nec"] | {"detector": evil}
    metrics["models"][evil] = metrics["models"]["honest-8b"]
    metrics["notes"] = [evil]
    metrics["words"] = {"positive": evil}
    metrics["trait"] = evil
    sweep["candidates"][0]["settings"]["compensation"] = evil
    sweep["recommended"]["reason"] = evil
    sweep["ablation"][0]["name"] = evil
    probe = invented.probe() | {"sentence": evil}
    place = make_run(report=report, metrics=metrics, sweep=sweep, probe=probe)
    outline = Outline(html(gather(place)))
    assert "script" not in outline.tags
    assert outline.text.count("alert(1)") > 12
    Outline(html(gather(place.rename(place.with_name("<b>&amp;")))))


@pytest.mark.parametrize("kind", ["sum", "spectral"])
def test_eighty_blocks_stay_readable_and_light(make_run, invented, kind):
    report = invented.report(80) if kind == "sum" else invented.two_sided(kind, blocks=80)
    text = html(gather(make_run(report=report)))
    outline = Outline(text)
    assert "Numbers (50 of 560 rows: the most perturbed; hcnr_report.json has all)" in outline.text
    assert len(text.encode()) < MOST_BYTES


def test_a_table_of_many_matrices_is_cut_to_the_largest():
    rows = [[name] for name in "abcdef"]
    table = Table(("matrix",), rows, weights=[2, None, 9, math.inf, 4, math.nan], first="largest")
    assert [name for (name,) in table.cut(4).rows] == ["d", "f", "c", "e"]
    assert table.cut(6) is table
    assert Table(("setting",), rows).cut(2).rows == rows, "of others every row is shown"


@pytest.mark.parametrize("share", [1, 22])
def test_infinite_conditions_keep_their_table(make_run, invented, share):
    report = invented.report()
    for record in report["matrices"][:share]:
        record["condition"] = "inf"
    run = gather(make_run(report=report))
    chart = all_charts(run)["condition"]
    assert isinstance(chart, RowChart)
    assert f"{share} of 22 have no place on the axis" in chart.description
    assert [row[1] for row in chart.table.rows].count("inf") == share
    assert sum(len(row.marks) for row in chart.rows) == 22 - share
    assert "no place on the axis" in html(run)
    assert draw(chart, 736).count("<circle") + draw(chart, 736).count("l5 10h-10z") == 22 - share


@pytest.mark.parametrize("inner", [slice(None), slice(1, 10)])
def test_interpolation_is_drawn_from_tuned_to_base(make_run, invented, inner):
    sweep = invented.sweep()
    sweep["interpolation"] = sweep["interpolation"][inner]
    chart = all_charts(gather(make_run(sweep=sweep)))["trade-off"]
    assert isinstance(chart, PlaneChart)
    (line,) = (curve for curve in chart.curves if curve.role == "rival")
    assert len(line.points) == 11
    first, *_, last = line.points
    assert [first.x, first.y, last.x, last.y] == pytest.approx([30.65, 12, 27.5, 44], abs=1.1)


def test_damping_is_drawn_where_it_differs(make_run, invented):
    report = invented.report()
    report["matrices"][0].update(damping=0.1, damping_raised=True)
    chart = all_charts(gather(make_run(report=report)))["damping"]
    assert [row[2] for row in chart.table.rows if row[2]] == ["yes"]


def test_share_of_neurons_by_hand(make_run, invented):
    report = invented.report(blocks=1)
    restored = [record["name"].rsplit(".")[-1] for record in report["matrices"]]
    assert restored == ["q_proj", "k_proj", "v_proj"]
    report["perturbation"]["model.layers.1.self_attn.q_proj"] = 0.001
    table = all_charts(gather(make_run(report=report)))["restored"].table
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["q_proj"] == ["1 of 2", "512", "25.0%"], "512 of twice 1024"
    assert rows["k_proj"] == ["1 of 1", "512", "50.0%"]
    assert rows["down_proj"] == ["0 of 1", "0", "0.0%"]


def test_without_compensation_that_is_said(make_run, invented):
    report = invented.report()
    report["config"]["compensation"] = "none"
    for record in report["matrices"]:
        record.update(condition=None, damping=None, objective=None, objective_none=None)
    text = Outline(html(gather(make_run(report=report)))).text
    assert "Compensation was off" in text
    assert "Condition of the curvature" not in text


def test_a_restoration_of_today(pair, tmp_path):
    import hcnr
    from pairs import config

    out = tmp_path / "restored"
    hcnr.restore(**pair, out=out, config=config(compensation="balanced", cross_weight_ratio=0.6))
    path = write_html(out)
    assert path == out / "report.html"
    text = Outline(path.read_text(encoding="utf-8")).text
    assert "8 of 14 matrices restored." in text
    assert str(tmp_path) not in path.read_text(), "names, not paths of the machine that made it"


def paths(value, here=()):
    if here:
        yield here
    children = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list) and len(here) < 3:
        for key, child in list(children)[:12]:
            if isinstance(child, dict | list):
                yield from paths(child, (*here, key))
            else:
                yield (*here, key)


@pytest.mark.parametrize("part", ["metrics", "sweep", "probe"])
def test_any_part_of_a_result_may_be_missing_or_odd(make_run, invented, part):
    """The page is written without it, or one sentence names the file and what it holds."""
    place = make_run(report=invented.report(1))
    file = place / {"metrics": "eval/metrics.json"}.get(part, f"{part}.json")
    whole = getattr(invented, part)()
    for count, where in enumerate(paths(whole)):
        broken = json.loads(json.dumps(whole))
        *parents, last = where
        inner = broken
        for key in parents:
            inner = inner[key]
        inner[last] = (None, "odd", [], {}, 7, [None], {"a": 1})[count % 7]
        file.write_text(json.dumps(broken))
        try:
            assert html(gather(place)).endswith("</html>\n"), where
        except DataError as error:
            found = r"(holds a \w+ as|has no part) '[^']+', expected .+; write it again or .+"
            assert re.fullmatch(f"{re.escape(str(file))} {found}", str(error)), where


def test_the_same_run_gives_the_same_page(full_run):
    assert html(gather(full_run)) == html(gather(full_run))


def test_a_failure_leaves_the_former_page(full_run, monkeypatch):
    path = write_html(full_run)
    former = path.read_bytes()
    monkeypatch.setattr(page, "html", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_html(full_run)
    assert path.read_bytes() == former
    assert not [p for p in full_run.iterdir() if p.name.startswith(".report")]


def test_a_place_that_does_not_exist_is_made(full_run, tmp_path):
    assert write_html(full_run, out=tmp_path / "none" / "report.html").is_file()
    with pytest.raises(OutputError):
        write_html(full_run, out=tmp_path / "none" / "report.html" / "report.html")
