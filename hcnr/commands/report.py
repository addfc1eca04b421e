"""`hcnr report`: one page that shows a restoration, and its charts as pictures."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from hcnr.commands.arguments import examples

EPILOG = examples(
    "hcnr report restored/",
    "hcnr report restored/ --metrics eval/metrics.json --sweep sweep/sweep.json --out result.html",
)


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `hcnr restore --out` wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; DIR/report.html without it.")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="Of `hcnr evaluate`; DIR/eval/metrics.json or DIR-eval/metrics.json without it."
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(help="Of `hcnr sweep`; DIR/sweep.json or DIR/sweep/sweep.json without it."),
    ] = None,
    probe: Annotated[
        Path | None, typer.Option(help="Of `hcnr probe`; DIR/probe.json without it.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Of `hcnr measure`, to show how the scores are distributed.")
    ] = None,
    svg: Annotated[
        bool, typer.Option(help="Write every chart as an SVG file too, beside the page.")
    ] = True,
    png: Annotated[
        bool | None, typer.Option("--png/--no-png", hidden=True, help="The former name of --svg.")
    ] = None,
) -> None:
    """Write one HTML file that shows a restoration; it needs no network and no script.

    The headline goes into the model card of DIR as well, where that card was written by hcnr.
    """
    from hcnr.output import print_json, say, shown
    from hcnr.report.gather import gather
    from hcnr.report.headline import update_card
    from hcnr.report.page import write_charts, write_html

    tell = functools.partial(say, shown(), soft_wrap=True)
    run = gather(directory, metrics=metrics, sweep=sweep, probe=probe, statistics=statistics)
    page = write_html(run, out=out)
    tell(f"written: {page}")
    written = [page]
    if png:
        tell("note: the charts are SVG files now (--svg), and no PNG is written")
    if svg if png is None else png:
        pictures = write_charts(run, out=page.with_suffix(""))
        tell(f"written: {page.with_suffix('')} ({len(pictures)} charts)")
        written += pictures
    if update_card(run):
        tell(f"updated: {directory / 'README.md'}")
        written.append(directory / "README.md")
    print_json({"written": written})
