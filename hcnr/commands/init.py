"""`hcnr init`: a few questions, and the recipe that `hcnr run` takes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hcnr.commands.arguments import examples
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.errors import ConfigError, HcnrError
from hcnr.output import print_json, say, shown

EPILOG = examples("hcnr init", "hcnr run --recipe hcnr-run/hcnr.yaml")


def init(
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a recipe that is there.")
    ] = False,
) -> None:
    """Ask for the pair, the data and a directory, and write the recipe for `hcnr run`.

    Every answer is checked at once; a wrong one is asked for again.
    """
    if not _at_terminal():
        raise ConfigError(
            "hcnr init asks its questions at a terminal, and there is none here; give the answers "
            "as options of hcnr run BASE TUNED --task FILE, which writes the same recipe"
        )
    from hcnr.guided import asking
    from hcnr.guided.recipe import FILE
    from hcnr.guided.recipe_file import recipe_of

    base = _ask("Base, the honest checkpoint (directory or OWNER/NAME)", asking.check_base)
    tuned = _ask(
        "Tuned, the fine-tuned one, or an adapter (in the same way)",
        lambda text: asking.check_tuned(base, text),
    )
    task = _ask("Task samples (file)", asking.check_task)
    honesty = _ask("Honesty samples (file)", asking.check_honesty, STARTER)
    data = {"task": task, "honesty": honesty}
    for key, what, default in (
        ("validation", "choose", VALIDATION), ("questions", "judge", STARTER),
    ):  # fmt: skip
        if honesty != STARTER:
            check = _other_than(data.get("validation"), asking.check_questions)
            data[key] = _ask(f"Honesty questions to {what} by (file)", check, default)
    out = _ask(
        "Directory for the results",
        lambda text: asking.check_out(text, (base, tuned), overwrite),
        "hcnr-run",
    )
    recipe = recipe_of({"models": {"base": base, "tuned": tuned}, "data": data})
    file = Path(out).expanduser() / FILE
    asking.write_recipe(recipe, file)
    say(shown(), f"written: {file}", f"next: hcnr run --recipe {file}", soft_wrap=True)
    print_json({"written": str(file), "recipe": recipe.model_dump()})


def _ask(question: str, check: Callable[[str], None], default: str | None = None) -> str:
    """Ask until an answer passes its check; what is wrong with one is said at once."""
    while True:
        # On the error stream, so that --json alone is on the other one.
        answer = str(typer.prompt(question, default=default, err=True)).strip()
        try:
            check(answer)
        except HcnrError as error:
            typer.echo(str(error), err=True)
        else:
            return answer


def _other_than(taken: str | None, check: Callable[[str], None]) -> Callable[[str], None]:
    def checked(text: str) -> None:
        if text == taken:
            raise ConfigError(
                f"{text} are the questions to choose by already, which cannot judge; name others"
            )
        check(text)

    return checked


def _at_terminal() -> bool:
    return sys.stdin.isatty()
