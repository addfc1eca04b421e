"""What the page is put together from: sections, figures and tables."""

from collections.abc import Sequence

from hcnr.record.tables import Table
from hcnr.report.drawing.charts import Chart, HeatMap, PlaneChart, Role, RowChart
from hcnr.report.drawing.markup import Markup, element
from hcnr.report.drawing.svg import draw, swatch

WIDE, NARROW = 736, 344
"""Widths that charts are drawn in: for a desk and for a telephone."""
FEW_ROWS = 16
"""Rows up to which a chart's numbers are printed on paper too."""
LONG = 40
"""Characters above which words of a table are broken into lines."""


def table(data: Table, caption: str, *, strong: str | None = None) -> Markup:
    """A table that scrolls by itself where it is too wide; the row `strong` stands out."""
    kinds = ["words" if text in data.words else None for text in data.heads]

    def line(cells: Sequence[str], first: Markup, name: str) -> Markup:
        pairs = zip(cells[1:], kinds[1:], strict=True)
        rest = (element(name, text, class_=_kind(text, kind)) for text, kind in pairs)
        marked = "strong" if cells[0] == strong else None
        return element("tr", first, *rest, class_=marked)

    head = line(data.heads, element("th", data.heads[0], scope="col"), "th")
    body = [
        line(row, element("th", row[0], scope="row", class_=_kind(row[0], "words")), "td")
        for row in data.rows
    ]
    inner = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", head),
        element("tbody", *body),
    )
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _kind(text: str, kind: str | None) -> str | None:
    return f"{kind} long" if kind and len(text) > LONG else kind


def figure(chart: Chart) -> Markup:
    """A chart with its title, its legend, how to read it, and its numbers."""
    count = len(chart.table.rows)
    return element(
        "figure",
        element(
            "figcaption",
            element("h3", chart.title),
            element("p", chart.description),
            _legend(chart),
        ),
        element("div", draw(chart, WIDE), class_="wide"),
        element("div", draw(chart, NARROW), class_="narrow"),
        element(
            "details",
            element("summary", f"Numbers ({count} {'row' if count == 1 else 'rows'})"),
            table(chart.table, f"Numbers: {chart.title}"),
            class_="short" if count <= FEW_ROWS else None,
        ),
        id=f"chart-{chart.key}",
    )


def _legend(chart: Chart) -> Markup | None:
    entries: list[tuple[Role, str, bool]] = []
    if isinstance(chart, RowChart):
        used = {mark.role for row in chart.rows for mark in row.marks}
        entries = [(role, name, False) for role, name in chart.legend if role in used]
    elif isinstance(chart, PlaneChart):
        entries = [(curve.role, curve.label, curve.line) for curve in chart.curves]
    if isinstance(chart, HeatMap) or len(entries) < 2:
        return None
    items = (element("li", swatch(role, line=line), name) for role, name, line in entries)
    return element("ul", *items, class_="legend")


def section(key: str, title: str, *parts: str | None) -> Markup | None:
    """A section with a heading, or None where it has nothing to show."""
    found = [part for part in parts if part]
    if not found:
        return None
    return element("section", element("h2", title, id=f"{key}-title"), *found, id=key,
                   aria_labelledby=f"{key}-title")  # fmt: skip
