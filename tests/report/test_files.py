import re
import xml.etree.ElementTree as ET

import pytest

from hcnr.errors import OutputError
from hcnr.report.drawing.charts import HeatMap, legend
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import gather
from hcnr.report.page import write_charts

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn(make_run, invented):
    """A run with every chart, and the files of them."""
    report = invented.report()
    report["matrices"][0].update(damping=0.1, damping_raised=True)
    metrics = invented.metrics()
    metrics["sets"]["<a & set>"] = metrics["sets"]["nec"]
    run = gather(make_run(report=report, metrics=metrics, sweep=invented.sweep(),
                          probe=invented.probe()))  # fmt: skip
    return run, write_charts(run)


def test_every_chart_becomes_a_file_with_title_and_legend(drawn):
    run, found = drawn
    charts = all_charts(run)
    assert [path.name for path in found] == [f"{key}.svg" for key in charts]
    assert {path.parent for path in found} == {run.directory / "report"}
    for path, chart in zip(found, charts.values(), strict=True):
        root = ET.parse(path).getroot()
        assert root.tag == f"{SVG}svg"
        texts = [text.text for text in root.iter(f"{SVG}text")]
        assert texts[0] == chart.title
        assert texts[1 : 1 + len(legend(chart))] == [name for _, name, _ in legend(chart)]
        assert isinstance(chart, HeatMap) or any(
            "mark" in (e.get("class") or "") or "bar" in (e.get("class") or "") for e in root.iter()
        )
        _, _, width, height = map(float, str(root.get("viewBox")).split())
        assert (width, height) == (float(str(root.get("width"))), float(str(root.get("height"))))


def test_a_file_needs_nothing_that_only_browsers_know(drawn):
    """Variables of a style sheet and colours of a page are not there for other programs."""
    _, found = drawn
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text and "--" not in text
        assert re.search(r"\.after \{ color: #[0-9a-f]{6}; \}", text)
        assert 'width="24" height="14"' in text or "swatch" not in text.partition("</style>")[2]


def test_a_folder_that_cannot_be_made(make_run):
    place = make_run()
    (place / "report").write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        write_charts(place)
