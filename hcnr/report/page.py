"""The report as one HTML file that needs nothing else, and its charts as pictures.

`page.html` is its template, `page.css` its style, `view.py` what it shows.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hcnr.report.answers import SHOWN, cut, restored_first, wanted
from hcnr.report.drawing.charts import legend, noted
from hcnr.report.drawing.elements import swatch
from hcnr.report.drawing.svg import draw
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import PathLike, Run, gather
from hcnr.report.view import view

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MOST_BYTES = 300_000
"""Of the page with answers, as long as fewer of them make it so."""
MOST_ROWS = 50
"""Of a table of a chart that the page shows; `hcnr_report.json` has all."""
MOST_NOTES = 500
"""Marks of a chart that have a note each; a pointer hardly finds one among more."""
_OPTION = re.compile(r"--[a-z][a-z-]*")
FEWEST = 10
"""Questions that the page shows whatever it weighs."""


def html(run: Run) -> str:
    """The page as text; every name in it is escaped.

    Long answers are left out until it is no larger than `MOST_BYTES`, or few are left.
    """
    from markupsafe import Markup

    shown = SHOWN
    while True:
        page = _template().render(view(run, shown), style=Markup(style()))
        if shown <= FEWEST or len(page.encode()) <= MOST_BYTES:
            return page
        shown //= 2


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["chart_of"] = lambda key, charts: charts.get(key)
    environment.filters.update(
        whole_options=_whole_options, cut=cut, wanted=wanted, restored_first=restored_first
    )
    environment.globals.update(
        draw=draw, swatch=swatch, legend=legend, noted=noted, most_rows=MOST_ROWS,
        most_notes=MOST_NOTES,
    )  # fmt: skip
    return environment.get_template("page.html")


def _whole_options(text: str) -> "Markup":
    """A sentence whose options (`--name`) no line break parts; browsers break after a hyphen."""
    from markupsafe import Markup, escape

    return Markup(_OPTION.sub(r'<span class="option">\g<0></span>', str(escape(text))))


@cache
def style() -> str:
    """The style sheet of the page, by which charts of other pages are drawn too."""
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def write_html(source: PathLike | Run, *, out: PathLike | None = None) -> Path:
    """Write the report of a restored checkpoint.

    Args:
        source: the directory that `hcnr restore` wrote, or what `gather` collected.
        out: the file; `report.html` in the directory when None.

    Returns:
        The file, complete: it is renamed into place.

    Raises:
        DataError: a file of the run cannot be read.
        OutputError: the file cannot be written.
    """
    from hcnr.checkpoint import atomic_file

    run = source if isinstance(source, Run) else gather(source)
    path = Path(out).expanduser() if out is not None else run.directory / "report.html"
    with atomic_file(path) as temporary:
        temporary.write_text(html(run), encoding="utf-8")
    return path


def write_charts(source: PathLike | Run, *, out: PathLike | None = None) -> list[Path]:
    """Write every chart of the report as an SVG file, for papers and slides.

    Args:
        source: the directory that `hcnr restore` wrote, or what `gather` collected.
        out: the folder; `report/` in the directory when None. It is made where it is missing.

    Returns:
        The files.

    Raises:
        DataError: a file of the run cannot be read.
        OutputError: a file cannot be written.
    """
    from hcnr.report.drawing.files import save_chart

    run = source if isinstance(source, Run) else gather(source)
    folder = Path(out).expanduser() if out is not None else run.directory / "report"
    charts = all_charts(run).items()
    return [save_chart(chart, folder / f"{key}.svg", style()) for key, chart in charts]
