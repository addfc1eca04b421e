"""`hcnr chat`: ask a repaired model and another one the same, at the terminal."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hcnr.commands.arguments import examples
from hcnr.commands.options import Tokenizer

if TYPE_CHECKING:
    from rich.console import Console

    from hcnr.evaluation.chat import Reply

EPILOG = examples(
    "hcnr chat restored/ --against tuned/",
    "hcnr chat restored/ --against tuned/ --against base/ --system 'Answer briefly.'",
    "hcnr chat restored/ --against tuned/ < questions.txt",
)
RESTART, QUIT = "/new", "/quit"
_COLUMN = 36
"""Characters that a column needs; models that do not fit beside each other follow each other."""


def chat(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="The checkpoint to talk to.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Another one that is asked the same; may be repeated."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = 128,
    tokenizer: Tokenizer = None,
    device: Annotated[str, typer.Option(help="Where the models run.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Theirs; auto keeps the checkpoint's.")] = "auto",
) -> None:
    """Talk to a model, beside others if you like: the same questions, greedy answers.

    /new begins a new chat, /quit or the end of the input ends. Without a terminal every line of the
    input is a question of the same chat.
    """
    from hcnr.commands.first_checks import check_command_line

    others = against or []
    check_command_line(checkpoints=(model, *others))
    from rich.console import Console

    from hcnr.errors import DataError
    from hcnr.evaluation.chat import open_chat
    from hcnr.output import current, print_json, shown

    console = shown(Console(highlight=False, markup=False))
    asked, count = [], 0
    with open_chat(
        [model, *others], system=system, tokenizer=tokenizer, device=device, dtype=dtype
    ) as talk:
        for question in _questions(console):
            if question == RESTART:
                talk.restart()
                continue
            count += 1
            try:
                replies = talk.ask(question, max_new_tokens=max_new_tokens)
            except DataError as error:
                if not sys.stdin.isatty():
                    raise
                console.print(f"{error}; {RESTART} begins a new chat")
                continue
            _print(console, replies)
            if current().json:
                asked.append({"question": question, "replies": [vars(reply) for reply in replies]})
    if not count and not sys.stdin.isatty():
        raise DataError(
            "the standard input held no question; write one a line, or talk at a terminal"
        )
    print_json(asked)


def _questions(console: "Console") -> Iterator[str]:
    """Lines of the standard input, asked for at a terminal; empty ones are no questions."""
    terminal = sys.stdin.isatty()
    if terminal:
        console.print(f"{RESTART} begins a new chat, {QUIT} ends.")
    while True:
        try:
            line = input("you: " if terminal else "")
        except EOFError:
            return
        if line.strip() == QUIT:
            return
        if line.strip():
            if not terminal and line.strip() != RESTART:
                console.print(f"you: {line.strip()}")
            yield line.strip()


def _print(console: "Console", replies: "Sequence[Reply]") -> None:
    """Replies beside each other, or one after the other where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    heads = [
        Text(reply.model + (" (refuses)" if reply.refused else ""), style="bold")
        for reply in replies
    ]
    texts = [Text(reply.text or "(nothing)") for reply in replies]
    if console.width < _COLUMN * len(replies):
        for head, text in zip(heads, texts, strict=True):
            console.print(head, text, sep="\n")
        console.print()
        return
    grid = Table.grid(padding=(0, 3, 0, 0), expand=True)
    for _ in replies:
        grid.add_column(ratio=1)
    grid.add_row(*heads)
    grid.add_row(*texts)
    console.print(grid)
    console.print()
