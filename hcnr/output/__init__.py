"""What a command prints: tables and progress, errors alone, or one JSON document."""

import contextvars
import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from hcnr.errors import ConfigError, HcnrError
from hcnr.output.elsewhere import options_elsewhere
from hcnr.output.logs import LEVELS, log_to_stderr

__all__ = [
    "Output",
    "current",
    "keyword",
    "output_options",
    "plain_values",
    "print_json",
    "say",
    "shown",
    "with_parameters",
]


@dataclass(frozen=True)
class Output:
    """How a command was asked to print.

    Attributes:
        quiet: nothing but errors.
        json: one JSON document on the standard output in place of tables; progress as always.
        log_level: of the logs of hcnr and of the libraries on the error stream; None for none.
    """

    quiet: bool = False
    json: bool = False
    log_level: str | None = None


_CURRENT: contextvars.ContextVar[Output] = contextvars.ContextVar("output", default=Output())  # noqa: B039 (frozen)
_PANEL = "Output"


def current() -> Output:
    """What the running command was asked for."""
    return _CURRENT.get()


def shown(console: Console | None = None) -> Console:
    """A console for tables and sentences, silent where these are not wanted.

    What is in brackets is no markup: names and reasons in tables come from users and packages.
    """
    console = Console(markup=False) if console is None else console
    console.quiet = current().quiet or current().json
    return console


def say(console: Console, *lines: str, soft_wrap: bool | None = None) -> None:
    """Print lines as they are: nothing in them is markup, nothing is highlighted.

    Args:
        console: where.
        lines: one below the other.
        soft_wrap: let the terminal break a long line, so that it is one line in a file.
    """
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=soft_wrap)


def print_json(value: Any) -> None:
    """Print the result of a command where --json was given."""
    if current().json:
        print(json.dumps(plain_values(value), indent=2, allow_nan=False, default=str))


def plain_values(value: Any) -> Any:
    """Lists and mappings with floats that JSON cannot express by their names: `inf` and `nan`."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain_values(item) for key, item in value.items()}
    return [plain_values(item) for item in value] if isinstance(value, list | tuple) else value


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --quiet, --json and --log-level.

    Where an error names an option that the command has not, its attribute `elsewhere` says whose
    it is.
    """
    flags = {
        "quiet": typer.Option(
            "--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_PANEL
        ),
        "as_json": typer.Option(
            "--json",
            help="Print one JSON document instead of tables; progress goes to the error stream.",
            rich_help_panel=_PANEL,
        ),
    }
    level = typer.Option(
        "--log-level",
        metavar="|".join(LEVELS),
        help="Log to the error stream what hcnr (stages, seconds) and the libraries tell.",
        rich_help_panel=_PANEL,
    )

    signature = inspect.signature(command)
    # typer gives one argument its context; some commands ask for it themselves.
    asks = "context" in signature.parameters

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        context = arguments.get("context") if asks else arguments.pop("context", None)
        asked = Output(
            arguments.pop("quiet"), arguments.pop("as_json"), arguments.pop("log_level", None)
        )
        token = _CURRENT.set(asked)
        try:
            if asked.quiet and asked.log_level is not None:
                raise ConfigError(
                    "--quiet and --log-level were both given, and one of them wants silence; leave "
                    "one out"
                )
            with log_to_stderr(asked.log_level):
                command(**arguments)
        except HcnrError as error:
            if context is not None:
                vars(error)["elsewhere"] = options_elsewhere(str(error), context)
            raise
        finally:
            _CURRENT.reset(token)

    added = [keyword(name, Annotated[bool, option], False) for name, option in flags.items()]
    added.append(keyword("log_level", Annotated[str | None, level]))
    if not asks:
        added.append(keyword("context", typer.Context, inspect.Parameter.empty))
    return with_parameters(wrapper, [*signature.parameters.values(), *added])


def keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A parameter of a command, which typer makes an option of."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def with_parameters(
    wrapper: Callable[..., None], parameters: Iterable[inspect.Parameter]
) -> Callable[..., None]:
    """Show a command's wrapper to typer as a function of these parameters, all by keyword."""
    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    wrapper.__signature__ = inspect.signature(wrapper).replace(parameters=shown)  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {one.name: one.annotation for one in shown}
    return wrapper
