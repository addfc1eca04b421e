"""`hcnr probe`: did the knowledge boundary survive fine-tuning?"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hcnr.commands.arguments import Config, Tuned, examples
from hcnr.commands.options import Tokenizer, config_options
from hcnr.config import ProbeConfig, load_with
from hcnr.directories import check_outside
from hcnr.output import print_json, say, shown

if TYPE_CHECKING:
    from rich.console import Console

    from hcnr.probes.report import ProbeReport

EPILOG = examples(
    "hcnr probe base/ tuned/ --honesty honesty.jsonl",
    "hcnr probe base/ tuned/ --honesty honesty.jsonl --samples 1000 --require 0.8 --out probe.json",
)
UNUSED = (
    "Selection", "Compensation", "gradient_checkpointing", "memory_budget", "all_hessians",
    "device_map", "max_memory",
)  # fmt: skip
"""Settings, and groups of them, that probes have nothing to do with."""


@config_options(unused=UNUSED)
@config_options(ProbeConfig, into="probes")
def probe(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="Honest checkpoint, before fine-tuning.")
    ],
    honesty: Annotated[
        str,
        typer.Option(
            metavar="FILE|starter",
            help="Honesty samples, as for restore. A record's answerable (true or false) is its "
            "class; where no record has it, a response that refuses makes it unanswerable.",
        ),
    ],
    tuned: Tuned = None,
    *,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the report to.")] = None,
    probes: dict[str, Any],
    tokenizer: Tokenizer = None,
    config: Config = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")] = (
        False
    ),
    settings: dict[str, Any],
) -> None:
    """Check with linear probes that TUNED still knows inside what it can answer.

    Probes trained on BASE's hidden states are asked about TUNED's. Worth doing before a
    restoration, which presumes that they still work there.
    """
    from hcnr.commands.first_checks import check_command_line, named_pair

    honest, tuned = named_pair(base, tuned)
    how, loaded = load_with(ProbeConfig, config, probes, settings)
    check_command_line(checkpoints=(honest, tuned), data=(honesty,), detector=how.detector)
    from hcnr.checkpoint import atomic_file
    from hcnr.data.samples import data_files
    from hcnr.output.bars import progress_bars
    from hcnr.probes.probe import probe as run

    console = shown()
    with contextlib.ExitStack() as stack:
        file = None
        if out is not None:
            out = out.expanduser()
            check_outside(out, data_files(honesty, base, tuned), "choose another place")
            # Entered before anything is computed: a place that cannot be written is found first.
            file = stack.enter_context(atomic_file(out, overwrite=overwrite))
        with progress_bars() as bars:
            report = run(
                honest,
                tuned,
                honesty,
                config=loaded,
                settings=how,
                tokenizer=tokenizer,
                watcher=bars,
            )
        if file is not None:
            file.write_text(report.to_json(), encoding="utf-8")
    print_probes(report, console)
    print_json(report.as_dict())
    if out is not None:
        say(console, f"written: {out}")
    if not report.met:
        raise typer.Exit(1)


def print_probes(report: "ProbeReport", console: "Console") -> None:
    """Print the AUROCs of every block, the verdict, and what was required."""
    from rich.table import Table

    table = Table(title="AUROC of linear probes, held out (95 % interval)", title_justify="left")
    table.add_column("block", justify="right", no_wrap=True)
    for head in ("base", "base on tuned", "tuned", "cosine"):
        table.add_column(head, justify="right", no_wrap=True)
    for block in report.blocks:
        table.add_row(
            f"{'* ' if block is report.best else ''}{block.block}",
            *(
                f"{found.auroc:.2f} ({found.low:.2f}-{found.high:.2f})"
                for found in (block.base, block.transfer, block.tuned)
            ),
            "-" if block.cosine is None else f"{block.cosine:.2f}",
        )
    console.print(table)
    data = report.data
    say(
        console,
        f"{data['unanswerable']} unanswerable and {data['answerable']} answerable samples, "
        f"labelled by {data['labelled_by']}; {data['source']} read as {data['format']}.",
    )
    for note in report.notes:
        say(console, f"note: {note}")
    say(console, report.sentence)
    if report.required is not None:
        auroc = f"{report.best.transfer.auroc:.3f}"
        say(
            console,
            f"Required: best transfer AUROC of at least {report.required:g}; found {auroc}, "
            f"{'met' if report.met else 'not met'}.",
        )
