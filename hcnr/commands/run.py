"""`hcnr run`: from a pair and task samples to a verdict, in one resumable command."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from hcnr.commands.arguments import examples
from hcnr.commands.options import BaseId, Tokenizer, TunedId
from hcnr.errors import ConfigError
from hcnr.output import print_json, say, shown

EPILOG = examples(
    "hcnr run base/ tuned/ --task task.jsonl",
    "hcnr run base/ tuned/ --task task.jsonl --honesty own.jsonl --out first/",
    "hcnr run --recipe first/hcnr.yaml",
)
OUT = Path("hcnr-run")
_SETTINGS = "Settings"
_MODELS = ("base", "tuned", "tokenizer", "base_id", "tuned_id")
_DATA = ("task", "honesty", "validation", "questions", "task_validation", "task_questions")


def _setting(help_: str, metavar: str) -> Any:
    return typer.Option(help=help_, metavar=metavar, rich_help_panel=_SETTINGS)


def run(
    base: Annotated[
        str | None, typer.Argument(metavar="BASE", help="Honest checkpoint; none with --recipe.")
    ] = None,
    tuned: Annotated[
        str | None, typer.Argument(metavar="TUNED", help="Fine-tuned checkpoint of the same kind.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Samples of what TUNED was tuned for, 32 or more; 256 are best."
        ),
    ] = None,
    honesty: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|starter",
            help="Honesty samples; starter by default. As many are measured as of the task, and "
            "half as many that follow are held back.",
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Honesty questions to choose by; starter-validation by default."
        ),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Honesty questions to judge by; starter by default."),
    ] = None,
    task_validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Task questions to choose by; task samples held back by default."
        ),
    ] = None,
    task_questions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Task questions to judge by; in the same way."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A hcnr.yaml to run, in place of all arguments but --out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for everything; hcnr-run by default, or the recipe's own."),
    ] = None,
    compensation: Annotated[
        str | None, _setting("Kind of repair; spectral by default.", "KIND")
    ] = None,
    task_weight: Annotated[
        str | None,
        _setting("Weight of the task in it; auto, the default, searches.", "NUMBER|auto"),
    ] = None,
    max_task_drop_percent: Annotated[
        str | None,
        _setting(
            "What of the task the search may give up, in percent of the likelihood that "
            "fine-tuning gained; 2 by default.",
            "NUMBER",
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        str | None, _setting("Points of task accuracy that may be lost; 2 by default.", "NUMBER")
    ] = None,
    max_task_drop: Annotated[
        str | None, typer.Option(help="Former name of both.", metavar="NUMBER", hidden=True)
    ] = None,
    samples: Annotated[
        str | None,
        _setting("Samples measured of each data set, at most; 128 by default.", "INTEGER"),
    ] = None,
    limit: Annotated[
        int | None, _setting("Questions of each set at most; all by default.", "INTEGER")
    ] = None,
    max_new_tokens: Annotated[
        int | None, _setting("Most tokens of an answer; 64 by default.", "INTEGER")
    ] = None,
    batch_size: Annotated[
        int | None, _setting("Questions at once; 32 by default.", "INTEGER")
    ] = None,
    device: Annotated[str | None, _setting("auto, cpu, cuda or cuda:N.", "TEXT")] = None,
    tokenizer: Tokenizer = None,
    base_id: BaseId = None,
    tuned_id: TunedId = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace finished results of another recipe in --out."),
    ] = False,
) -> None:
    """Probe, choose, restore, evaluate and report in one go, ending with what to do.

    Everything lies in --out: the recipe hcnr.yaml, the model, the page report.html. Interrupted or
    run again it goes on: a step is done once for the same inputs and settings. Honesty questions
    that choose, judge and are measured never overlap in the starter set.
    """
    options: dict[str, Any] = dict(
        base=base, tuned=tuned, tokenizer=tokenizer, base_id=base_id, tuned_id=tuned_id,
        task=task, honesty=honesty, validation=validation, questions=questions,
        task_validation=task_validation, task_questions=task_questions,
        compensation=compensation, task_weight=task_weight,
        max_task_drop_percent=max_task_drop_percent, max_accuracy_drop=max_accuracy_drop,
        max_task_drop=max_task_drop,
        samples=samples, limit=limit,
        max_new_tokens=max_new_tokens, batch_size=batch_size, device=device,
    )  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    wanted, directory = _wanted(options, recipe, out)
    from hcnr.commands.first_checks import check_command_line

    data = wanted.data
    check_command_line(
        checkpoints=(Path(wanted.models.base), Path(wanted.models.tuned)),
        data=(data.honesty, data.task),
        questions=filter(
            None, (data.validation, data.questions, data.task_validation, data.task_questions)
        ),
    )
    from hcnr.guided.run import run_recipe
    from hcnr.output.bars import progress_bars

    tell = functools.partial(say, shown(), soft_wrap=True)
    with progress_bars() as bars:
        outcome = run_recipe(wanted, directory, overwrite=overwrite, watcher=bars, tell=tell)
    tell(*outcome.lines)
    print_json(outcome.as_dict())


def _wanted(options: dict[str, Any], recipe: Path | None, out: Path | None) -> Any:
    """The recipe, from its file or from the arguments; and the directory."""
    from hcnr.guided.recipe_file import load_recipe, recipe_of

    if recipe is not None:
        if options:
            name = next(iter(options))
            shown_as = name.upper() if name in ("base", "tuned") else "--" + name.replace("_", "-")
            raise ConfigError(
                f"{shown_as} was given beside --recipe, which says it already; change it in "
                f"{recipe}, or leave --recipe out"
            )
        recipe = recipe.expanduser()
        return load_recipe(recipe), recipe.parent if out is None else out
    if missing := [name for name in ("base", "tuned", "task") if name not in options]:
        names = {"base": "BASE", "tuned": "TUNED", "task": "--task"}
        raise ConfigError(
            f"{' and '.join(names[one] for one in missing)} missing: expected BASE TUNED --task "
            "FILE, or --recipe FILE; hcnr init asks for all of it"
        )
    parts = {
        "models": {name: options[name] for name in _MODELS if name in options},
        "data": {name: options[name] for name in _DATA if name in options},
        "settings": {n: v for n, v in options.items() if n not in (*_MODELS, *_DATA)},
    }
    return recipe_of(parts), OUT if out is None else out
