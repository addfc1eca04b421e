"""The command line: thin commands over the Python API."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from hcnr import ranks
from hcnr._version import __version__
from hcnr.commands import (
    apply,
    chat,
    data,
    demo,
    evaluate,
    info,
    init,
    measure,
    plan,
    probe,
    push,
    report,
    restore,
    sweep,
    tune,
)
from hcnr.commands import run as guided
from hcnr.commands.arguments import examples
from hcnr.errors import ConfigError, HcnrError
from hcnr.output import current, output_options
from hcnr.settings import FormerName

app = typer.Typer(
    name="hcnr",
    help='Repair fine-tuned language models that forgot how to say "I don\'t know".',
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
INTERRUPTED = 130
IN_SEVERAL_PROCESSES = ("restore", "measure", "plan", "info")
"""Commands that may be started by torchrun: those that share their work, or write nothing."""


def _version(value: bool) -> None:
    if value:
        print(f"hcnr {__version__}")
        raise typer.Exit()


@app.callback(
    epilog=examples(
        "hcnr demo",
        "hcnr run BASE TUNED --task task.jsonl",
        "hcnr restore BASE TUNED --honesty honesty.jsonl --task task.jsonl --out restored",
    )
)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Repair fine-tuned language models that forgot how to say "I don't know"."""
    command = context.invoked_subcommand
    if command is not None and command not in IN_SEVERAL_PROCESSES:
        ranks.refuse_several(command)


for module in (
    restore, apply, measure, plan, guided, init, demo, probe, sweep, evaluate, tune, report, chat,
    push, info,
):  # fmt: skip
    command = module.__name__.rpartition(".")[2]
    app.command(command, epilog=module.EPILOG)(output_options(getattr(module, command)))
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


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """A line on the error stream for each setting that is given by a former name."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", FormerName)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, FormerName):
                usual(message, category, *rest, **more)
            elif ranks.first() and not current().quiet:
                print(f"note: {message}", file=sys.stderr)

        warnings.showwarning = show
        yield


def run(command: Callable[[], object]) -> None:
    """Run a typer application: exit 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    try:
        with _notes():
            command()
    except HcnrError as error:
        if ranks.speaks():
            elsewhere = getattr(error, "elsewhere", "")
            print(f"hcnr: {error}{elsewhere}{_kept(error)}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as ended:
        # Typer turns Ctrl-C into this status without a word.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        kept = _kept(ended) or "; finished answers and candidates are kept"
        if ranks.asked() > 1:
            kept = ""  # several processes keep nothing
        if ranks.speaks():
            print(f"hcnr: interrupted{kept}, nothing is half-written", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _kept(error: BaseException) -> str:
    """What an interrupted run left for the next one, as the end of a sentence."""
    cause: BaseException | None = error
    while cause is not None:
        if (directory := getattr(cause, "kept_work", None)) is not None:
            return (
                f"; finished passes are kept in {directory}: the same command goes on from there "
                "(--fresh begins anew)"
            )
        cause = cause.__context__
    return ""
