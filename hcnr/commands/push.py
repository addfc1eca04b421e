"""`hcnr push`: a restored checkpoint goes to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hcnr.commands.arguments import examples

EPILOG = examples(
    "hcnr push restored/ owner/name-restored --private",
    "hcnr push restored/ owner/name-restored --base-model owner/name",
)


def push(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `hcnr restore --out` wrote.")
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where it goes on the hub.")],
    base_model: Annotated[
        str | None, typer.Option(help="The hub's name of TUNED, where the card does not know it.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    message: Annotated[
        str, typer.Option(help="Of the commit.")
    ] = "Upload a model repaired by hcnr",
) -> None:
    """Upload a restored checkpoint to the Hugging Face hub, once its card has been checked.

    Log in with `hf auth login` first. Answers that models gave and the page, which
    quotes them, are left out, and paths of this machine become names.
    """
    from hcnr.output import print_json, shown
    from hcnr.record.push import push as run

    pushed = run(directory, repo, base_model=base_model, private=private, message=message)
    console = shown(Console(soft_wrap=True, highlight=False, markup=False))
    console.print(f"base model: {', '.join(pushed.base_model)}")
    console.print(f"pushed: {pushed.url}")
    print_json({"url": pushed.url, "base_model": pushed.base_model})
