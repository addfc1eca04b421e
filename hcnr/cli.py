"""The command line: thin commands over the Python API."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from hcnr._version import __version__
from hcnr.commands import chat, data, demo, evaluate, info, init, probe, push, report, sweep, tune
from hcnr.commands import run as guided
from hcnr.commands.first_checks import check_command_line, named_pair
from hcnr.commands.options import BaseId, Tokenizer, TunedId, config_options
from hcnr.config import PRESETS, load_config
from hcnr.errors import ConfigError, HcnrError
from hcnr.output import output_options, print_json, shown

app = typer.Typer(
    name="hcnr",
    help='Repair fine-tuned language models that forgot how to say "I don\'t know".',
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
CONSOLE = Console()
INTERRUPTED = 130
UNMEASURED = (
    "task_weight", "coefficient", "max_task_drop", "steps", "step_size", "damping", "block_size",
    "memory_budget",
)  # fmt: skip
"""Settings that `hcnr measure` does not use."""
UNPLANNED = (
    "priority", "score_normalization", "seed", "max_task_drop", "step_size", "damping",
    "shuffle_seed", "max_length", "chat_template", "token_budget", "gradient_checkpointing",
    "attention", "dtype",
)  # fmt: skip
"""Settings that `hcnr plan` does not use."""

# Optional[...] rather than `| None`: typer evaluates these on Python 3.10 too.
Base = Annotated[
    Path,
    typer.Argument(
        metavar="BASE",
        help="Honest checkpoint, before fine-tuning: a directory, or OWNER/NAME@REVISION of the "
        "Hugging Face hub.",
    ),
]
Tuned = Annotated[
    Optional[Path],  # noqa: UP045
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
    "hf:NAME of the hub, or starter, the set that comes with hcnr.",
)
TASK = typer.Option(
    metavar="FILE", help="Samples of the task that the model was tuned for, in the same formats."
)
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
        "hcnr run BASE TUNED --task task.jsonl",
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
        "--compensation interpolate --out mixed/",
        "hcnr restore base/ tuned/ --honesty h.jsonl --task t.jsonl "
        "--config restored/hcnr_config.yaml --out again/",
    )
)
@output_options
@config_options()
def restore(
    base: Base,
    out: Annotated[Path, typer.Option(help="Directory to write the restored checkpoint to.")],
    tuned: Tuned = None,
    honesty: Annotated[Optional[str], HONESTY] = None,  # noqa: UP045
    task: Annotated[Optional[str], TASK] = None,  # noqa: UP045
    statistics: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Statistics of an earlier `hcnr measure`; nothing is measured then."),
    ] = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    preset: Preset = None,
    base_id: BaseId = None,
    tuned_id: TunedId = None,
    out_format: Annotated[
        str,
        typer.Option(
            metavar="full|adapter",
            help="A whole checkpoint; or a LoRA adapter on TUNED, or on BASE where TUNED is an "
            "adapter itself.",
        ),
    ] = "full",
    adapter_rank: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Largest rank of a matrix of that adapter, 64 by default; what needs more is "
            "truncated, and the error is told.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Give TUNED its honesty back and write the repaired checkpoint.

    Without settings every matrix is repaired by `spectral`, with the smallest weight of the task
    that loses at most 2 percent of what fine-tuning gained, by task samples held back from
    measuring. It ends with the losses of both data sets and a verdict.
    """
    honest, tuned = named_pair(base, tuned)
    check_command_line(checkpoints=(honest, tuned), data=(honesty, task), statistics=statistics)
    loaded = load_config(config, settings, preset_name=preset)
    from hcnr.record.front_matter import NO_BASE_MODEL, read_origin

    origin = read_origin(honest, tuned, base_id, tuned_id)
    import hcnr
    from hcnr.bars import progress_bars
    from hcnr.record.writing import read_report
    from hcnr.report.terminal import print_report

    with progress_bars() as bars:
        out = hcnr.restore(
            honest,
            tuned,
            honesty,
            task,
            out,
            loaded,
            statistics,
            tokenizer=tokenizer,
            base_id=base_id,
            tuned_id=tuned_id,
            out_format=out_format,  # pyright: ignore[reportArgumentType] (checked there)
            adapter_rank=adapter_rank,
            overwrite=overwrite,
            watcher=bars,
        )
    report, console = read_report(out), shown(CONSOLE)
    print_report(report, console)
    if not origin.is_named:
        console.print(f"note: {NO_BASE_MODEL}", highlight=False, markup=False)
    console.print(f"written: {out}", highlight=False, markup=False)
    print_json({"written": str(out), **report})


@app.command(
    epilog=_examples(
        "hcnr measure base/ tuned/ --honesty honesty.jsonl --task task.jsonl "
        "--out stats.safetensors",
        "hcnr measure base/ tuned/ --honesty h.jsonl --task t.jsonl --compensation balanced "
        "--all-hessians --out stats.safetensors",
    )
)
@output_options
@config_options(unused=UNMEASURED)
def measure(
    base: Base,
    honesty: Annotated[str, HONESTY],
    task: Annotated[str, TASK],
    out: Annotated[Path, typer.Option(help="Safetensors file to write the statistics to.")],
    tuned: Tuned = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    preset: Preset = None,
    overwrite: Overwrite = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Measure scores and curvature once, for any number of restorations."""
    honest, tuned = named_pair(base, tuned)
    check_command_line(checkpoints=(honest, tuned), data=(honesty, task))
    loaded = load_config(config, settings, preset_name=preset)
    import hcnr
    from hcnr.bars import progress_bars
    from hcnr.curvature.statistics import check_destination
    from hcnr.report.terminal import print_data

    inputs = [place for place in (honest, tuned) if place is not None]
    check_destination(out, inputs=inputs, overwrite=overwrite)
    console = shown(CONSOLE)
    with progress_bars() as bars:
        found = hcnr.measure(
            honest, tuned, honesty, task, loaded, tokenizer=tokenizer, watcher=bars
        )
    found.save(out)
    print_data(found.data, console)
    curvatures = sum(len(matrices) for matrices in found.hessians.values())
    console.print(
        f"written: {out} (scores of {len(found.matrices)} matrices, {curvatures} curvatures)",
        highlight=False,
        markup=False,
    )
    print_json(
        {
            "written": str(out),
            "matrices": len(found.matrices),
            "curvatures": curvatures,
            "data": found.data,
        }
    )


@app.command(
    epilog=_examples(
        "hcnr plan base/ tuned/",
        "hcnr plan base/ tuned/ --axis input --cross-weight-ratio 0.3 --tokens-per-sample 512",
    )
)
@output_options
@config_options(unused=UNPLANNED)
def plan(
    base: Base,
    tuned: Tuned = None,
    config: Config = None,
    preset: Preset = None,
    tokens_per_sample: Annotated[
        int, typer.Option(min=1, help="Tokens to assume per sample.")
    ] = 256,
    *,
    settings: dict[str, Any],
) -> None:
    """Show what a restoration would do: matrices, bytes and operations; computes nothing."""
    honest, tuned = named_pair(base, tuned)
    check_command_line(checkpoints=(honest, tuned))
    loaded = load_config(config, settings, preset_name=preset)
    from hcnr.plan import plan_run
    from hcnr.report.terminal import print_plan

    found = plan_run(honest, tuned, loaded, tokens_per_sample=tokens_per_sample)
    print_plan(found, shown(CONSOLE))
    print_json(dataclasses.asdict(found))


app.command("run", epilog=guided.EPILOG)(output_options(guided.run))
app.command("init", epilog=init.EPILOG)(output_options(init.init))
app.command("demo", epilog=demo.EPILOG)(demo.demo)
app.command("probe", epilog=probe.EPILOG)(output_options(probe.probe))
app.command("sweep", epilog=sweep.EPILOG)(output_options(sweep.sweep))
app.command("evaluate", epilog=evaluate.EPILOG)(output_options(evaluate.evaluate))
app.command("tune", epilog=tune.EPILOG)(output_options(tune.tune))
app.command("report", epilog=report.EPILOG)(output_options(report.report))
app.command("chat", epilog=chat.EPILOG)(output_options(chat.chat))
app.command("push", epilog=push.EPILOG)(output_options(push.push))
app.command("info", epilog=info.EPILOG)(output_options(info.info))
data_sets = typer.Typer(
    help="Make honesty samples of your own questions, or the data sets of a replication.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
data_sets.callback(epilog=data.EPILOG)(lambda: None)
data_sets.command("make", epilog=data.MAKE_EPILOG)(output_options(data.make_data))
data_sets.command("build", epilog=data.EPILOG)(output_options(data.build_data))
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
