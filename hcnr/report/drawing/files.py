"""Charts as SVG files that need nothing else, with title and legend, on white."""

import re
from pathlib import Path

from markupsafe import Markup

from hcnr.checkpoint import atomic_file
from hcnr.directories import make_directory
from hcnr.report.drawing.charts import Chart, legend
from hcnr.report.drawing.elements import CHARACTER, element, swatch
from hcnr.report.drawing.svg import drawing

WIDTH, MARGIN, LINE = 736, 12, 22


def stand_alone(style: str) -> str:
    """The part of the page's style about charts, with colours in place of variables.

    What shows an SVG file outside of a browser knows no variables.
    """
    colours = dict(re.findall(r"--(\w+): (#\w+)", style.partition("@media")[0]))
    charts = style.partition("/* charts */")[2].partition("/* end of charts */")[0]
    return re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]], charts)


def save_chart(chart: Chart, path: Path, style: str) -> Path:
    """Draw one chart into an SVG file; the folder is made where it is missing.

    Raises:
        OutputError: the file cannot be written.
    """
    make_directory(path.parent, "choose another place")
    with atomic_file(path) as temporary:
        temporary.write_text(f"{picture(chart, style)}\n", encoding="utf-8")
    return path


def picture(chart: Chart, style: str) -> Markup:
    """The text of such a file; `style` is the page's."""
    x, y = float(MARGIN), 24.0
    head = [element("text", chart.title, x=x, y=y, class_="tag", style="font-size: 15px")]
    for index, (role, name, line) in enumerate(legend(chart)):
        width = 30 + len(name) * CHARACTER * 1.1
        if not index or x + width > WIDTH:
            x, y = float(MARGIN), y + LINE
        mark = element("g", swatch(role, line=line), transform=f"translate({x:.0f} {y - 11:.0f})")
        head += [mark, element("text", name, x=x + 30, y=y)]
        x += width + 16
    height, parts = drawing(chart, WIDTH)
    whole = (WIDTH + 2 * MARGIN, round(y + LINE / 2 + height + MARGIN))
    return element(
        "svg",
        element("title", chart.title),
        element("desc", chart.description),
        element("style", Markup(stand_alone(style))),
        element("rect", width="100%", height="100%", fill="#fff"),
        *head,
        element("g", *parts, transform=f"translate({MARGIN} {y + LINE / 2:.0f})"),
        xmlns="http://www.w3.org/2000/svg",
        width=whole[0],
        height=whole[1],
        viewBox=f"0 0 {whole[0]} {whole[1]}",
        font_family='"Helvetica Neue", Helvetica, Arial, sans-serif',
    )
