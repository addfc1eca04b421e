"""`hcnr apply`: a patch becomes a whole checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from hcnr.commands.arguments import Overwrite, examples
from hcnr.commands.first_checks import check_command_line
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr restore base/ tuned/ --honesty h.jsonl --task t.jsonl --out patch/ --out-format patch",
    "hcnr apply tuned/ patch/ --out restored/",
)


def apply(
    tuned: Annotated[
        Path,
        typer.Argument(metavar="TUNED", help="What was restored, named as it was then."),
    ],
    patch: Annotated[
        Path,
        typer.Argument(metavar="PATCH", help="What `hcnr restore --out-format patch` wrote."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the whole checkpoint to.")],
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="BASE",
            help="What TUNED is merged into where it is an adapter; what it names itself by "
            "default.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put a patch on TUNED: the checkpoint that `hcnr restore` would have written whole.

    TUNED must be the one that the patch was made for, which is compared to the last bit.
    """
    check_command_line(checkpoints=(tuned, base))
    import hcnr
    from hcnr.output.bars import progress_bars

    with progress_bars() as bars:
        made = hcnr.apply_patch(tuned, patch, out, base=base, overwrite=overwrite, watcher=bars)
    say(shown(), f"written: {made}")
    print_json({"written": str(made)})
