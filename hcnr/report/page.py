"""The report as one HTML file that needs nothing else, and its charts as pictures."""

from pathlib import Path

from hcnr.report.drawing.markup import Markup, element, join
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import PathLike, Run, gather
from hcnr.report.sections import body, header, tiles
from hcnr.report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing but its own style."""


def html(run: Run) -> str:
    """The page as text; every name in it is escaped."""
    sections = body(run, all_charts(run))
    version = run.report["versions"].get("hcnr", "")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"{run.name}: hcnr report"),
        element("style", Markup(STYLE)),
    )
    main = element("main", header(run), tiles(run), *sections)
    footer = element("footer", element("p", f"Written by hcnr {version} from the run's own files."))
    document = element("html", head, element("body", main, footer), lang="en")
    return join(Markup("<!DOCTYPE html>\n"), document, "\n")


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


def write_pngs(source: PathLike | Run, *, out: PathLike | None = None) -> list[Path]:
    """Draw every chart of the report as a PNG, for papers and slides.

    Args:
        source: the directory that `hcnr restore` wrote, or what `gather` collected.
        out: the folder; `report/` in the directory when None. It is made where it is missing.

    Returns:
        The files.

    Raises:
        ConfigError: matplotlib is not installed.
        DataError: a file of the run cannot be read.
        OutputError: a file cannot be written.
    """
    from hcnr.report.drawing.png import save_chart

    run = source if isinstance(source, Run) else gather(source)
    folder = Path(out).expanduser() if out is not None else run.directory / "report"
    return [save_chart(chart, folder / f"{key}.png") for key, chart in all_charts(run).items()]
