"""What a command prints: tables and progress, errors alone, or one JSON document."""

import contextvars
import functools
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["Output", "current", "output_options", "print_json", "shown"]


@dataclass(frozen=True)
class Output:
    """How a command was asked to print.

    Attributes:
        quiet: nothing but errors.
        json: one JSON document on the standard output in place of tables; progress as always.
    """

    quiet: bool = False
    json: bool = False


_CURRENT: contextvars.ContextVar[Output] = contextvars.ContextVar("output", default=Output())  # noqa: B039 (frozen)
_PANEL = "Output"


def current() -> Output:
    """What the running command was asked for."""
    return _CURRENT.get()


def shown(console: Console | None = None) -> Console:
    """A console for tables and sentences, silent where these are not wanted."""
    console = Console() if console is None else console
    console.quiet = current().quiet or current().json
    return console


def print_json(value: Any) -> None:
    """Print the result of a command where --json was given."""
    if current().json:
        print(json.dumps(_plain(value), indent=2, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    """Floats that JSON cannot express by their names, as in `hcnr_report.json`."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --quiet and --json."""
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

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        quiet, as_json = arguments.pop("quiet"), arguments.pop("as_json")
        token = _CURRENT.set(Output(quiet, as_json))
        try:
            command(**arguments)
        finally:
            _CURRENT.reset(token)

    signature = inspect.signature(command)
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()
    ]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
        )
        for name, option in flags.items()
    ]
    parameters = [*own, *added]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapper
