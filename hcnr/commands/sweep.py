"""`hcnr sweep`: many configurations from one measurement."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hcnr.commands.arguments import Config, examples
from hcnr.commands.options import Tokenizer, config_options
from hcnr.config import SweepConfig, load_with
from hcnr.errors import ConfigError
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr sweep base/ tuned/ --honesty h.jsonl --task t.jsonl --benchmarks kuq "
    "--tasks hotpotqa --limit 200 --out sweep/",
    "hcnr sweep base/ tuned/ --statistics stats.safetensors --in-weight 0.3,0.5,0.7 "
    "--cross-weight 0.4,1.0 --compensation none,sum,joint,balanced --task-weight 1,10 "
    "--validation questions.jsonl --tasks own-task.jsonl --out sweep/",
)


@config_options(unused=("coefficient", "max_task_drop_percent", "device_map", "max_memory"))
@config_options(SweepConfig, into="search")
def sweep(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="Honest checkpoint, before fine-tuning.")
    ],
    tuned: Annotated[
        Path, typer.Argument(metavar="TUNED", help="Fine-tuned checkpoint of the same kind.")
    ],
    *,
    honesty: Annotated[
        str | None,
        typer.Option(metavar="FILE|starter", help="Honesty samples to measure on, as for restore."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Samples of the task that the model was tuned for."),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            help="Statistics of `hcnr measure --all-hessians` (with --compensation balanced where "
            "the grid has it); nothing is measured then."
        ),
    ] = None,
    in_weight: Annotated[
        str, typer.Option(metavar="NUMBERS", help="In-weight ratios to try.")
    ] = "0.3,0.5,0.7",
    cross_weight: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Cross-weight ratios to try.")
    ] = "0.4,1.0",
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|starter-validation",
            help="Your own honesty questions: a file of question, answerable, answers, or another "
            "format of docs/data.md; or those that come with hcnr.",
        ),
    ] = None,
    benchmarks: Annotated[
        str, typer.Option(metavar="NAMES", help="Honesty sets by name, or files.")
    ] = "",
    tasks: Annotated[str, typer.Option(metavar="NAMES", help="Task sets by name, or files.")] = "",
    search: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Directory to write sweep.json to.")] = Path("sweep"),
    tokenizer: Tokenizer = None,
    config: Config = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing sweep.json.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Begin anew; otherwise the passes and candidates that a sweep left in "
            "OUT/sweep.json.unfinished when it was stopped are taken over.",
        ),
    ] = False,
    settings: dict[str, Any],
) -> None:
    """Try many configurations on one measurement and recommend one.

    The refusal delta decides, at a task accuracy within --max-accuracy-drop of tuned's. The grid
    has 42 configurations by default, and up to six near the best of them follow. Here
    --compensation and --task-weight take lists, such as none,sum,joint,balanced and 1,10. The two
    ratios of the settings and a --config's compensation are those of the --ablate table.
    Questions that choose a setting do not measure it: keep others for `hcnr evaluate`.
    """
    from hcnr.commands.first_checks import check_command_line
    from hcnr.search.grid import Grid, read_names, read_numbers

    own = [validation] if validation else []
    questions, jobs = [*own, *read_names(benchmarks)], read_names(tasks)
    for name in () if search.get("ablate") else ("in_weight", "cross_weight"):
        if (value := settings.get(f"{name}_ratio")) is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option}-ratio is {value}, but without --ablate nothing uses it; list the ratios "
                f"to try with {option}"
            )
    axes: dict[str, Any] = {
        "in_weight": read_numbers("--in-weight", in_weight),
        "cross_weight": read_numbers("--cross-weight", cross_weight),
    }
    if (value := settings.pop("compensation", None)) is not None:
        axes["compensation"] = read_names(value)
    if (value := settings.pop("task_weight", None)) is not None:
        axes["task_weight"] = read_numbers("--task-weight", value)
    how, loaded = load_with(SweepConfig, config, search, settings)
    check_command_line(
        checkpoints=(base, tuned),
        data=(honesty, task),
        statistics=statistics,
        questions=(*questions, *jobs),
        detector=how.detector,
    )
    from hcnr.output.bars import progress_bars
    from hcnr.report.terminal import print_data
    from hcnr.search.checks import FILE
    from hcnr.search.sweep import sweep as run
    from hcnr.search.table import print_sweep

    with progress_bars() as bars:
        result = run(
            base,
            tuned,
            honesty,
            task,
            statistics=statistics,
            grid=Grid(**axes),
            benchmarks=questions,
            tasks=jobs,
            out=out,
            config=loaded,
            settings=how,
            overwrite=overwrite,
            fresh=fresh,
            tokenizer=tokenizer,
            watcher=bars,
        )
    console = shown()
    print_sweep(result, console)
    print_data(result.data, console)
    say(console, f"written: {out / FILE}")
    print_json(result.as_dict())
