"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from hcnr.config import PRESETS

Base = Annotated[
    Path,
    typer.Argument(
        metavar="BASE",
        help="Honest checkpoint, before fine-tuning: a directory, or OWNER/NAME@REVISION of the "
        "Hugging Face hub.",
    ),
]
Tuned = Annotated[
    Path | None,
    typer.Argument(
        metavar="TUNED",
        help="Fine-tuned checkpoint of the same kind, or a PEFT adapter on BASE; an adapter alone "
        "names its base itself.",
        show_default=False,
    ),
]
HONESTY = typer.Option(
    metavar="FILE|starter",
    help="Honesty samples: a jsonl, json, csv or parquet file in any format of docs/data.md, "
    "hf:NAME of the hub, or starter, the set that comes with hcnr. --samples are measured at "
    "most, no more than of the task where something is searched, and half as many that follow are "
    "held back for the verdict.",
)
TASK = typer.Option(
    metavar="FILE",
    help="Samples of the task that the model was tuned for, in the same formats; best those that "
    "it was not tuned on.",
)
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings by name: default, paper (sum, R_IW 0.5, R_CW 0.4, as published) or fast "
        "(no search for the task weight); --config and options win over it.",
        metavar="|".join(PRESETS),
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings; options win over it.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(lines)
