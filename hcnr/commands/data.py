"""`hcnr data build`: the data sets of a replication."""

from pathlib import Path
from typing import Annotated, Optional

import typer

EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "hcnr data build --data-root data/ --out replication/\n\n"
    "hcnr restore base/ tuned/ --honesty replication/honesty-128.jsonl "
    "--task replication/hotpotqa-128.jsonl --out restored/"
)


def build_data(
    out: Annotated[Path, typer.Option(help="Directory to write the data sets to.")],
    data_root: Annotated[
        Optional[Path],  # noqa: UP045 (typer reads it at run time on Python 3.10)
        typer.Option(help="Folder with the authors' files; $HCNR_DATA_ROOT by default."),
    ] = None,
    rait: Annotated[
        bool, typer.Option("--rait", help="Also write 5000 samples to train refusals with.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = (
        False
    ),
) -> None:
    """Build the honesty and task samples and the evaluation sets of a replication, and check them.

    Nothing is drawn at random: the same files give the same output, byte for byte.
    """
    from rich.console import Console

    from hcnr.evaluate.replication import build_replication

    # Soft wrap: a check is one line, also in a file.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    built = build_replication(data_root, out, rait=rait, overwrite=overwrite)
    for check in built.checks:
        console.print(f"ok  {check.name}: {check.found}")
    lines = sum(built.files.values())
    console.print(
        f"written: {out} ({len(built.files)} files, {lines} lines; all "
        f"{len(built.checks)} self-checks passed)"
    )
