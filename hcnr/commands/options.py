"""Command-line options generated from the fields of `RestoreConfig`."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Optional, get_args, get_origin

import typer

from hcnr.config import RestoreConfig
from hcnr.output import current
from hcnr.settings import choices_of

Tokenizer = Annotated[
    Optional[str],  # noqa: UP045 (typer reads it at run time on Python 3.10)
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="Directory of the tokenizer; the tuned model's own by default, else base's.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Begin anew; otherwise the finished passes that an interrupted run left in "
        "OUT.unfinished are taken over.",
    ),
]
BaseId = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--base-id", metavar="OWNER/NAME", help="BASE on the Hugging Face hub, for the card."
    ),
]
TunedId = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--tuned-id", metavar="OWNER/NAME", help="TUNED on the hub: the card's base_model."
    ),
]


def config_options(
    *, unused: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every configuration key as an option.

    The command takes a keyword argument `settings`: the keys that were given, by name, as text
    (truth values as bool). Checking them is left to `RestoreConfig`, so that a flag, a YAML line
    and a Python argument are refused in the same words.

    Args:
        unused: keys, or groups of keys, that the command does not use: its help does not list
            them, and a note says so where one is given, as in the line of another command.
    """
    hidden = {
        name
        for name, field in RestoreConfig.model_fields.items()
        if not {name, _group(field)}.isdisjoint(unused)
    }
    return functools.partial(_with_options, hidden)


def _with_options(hidden: set[str], command: Callable[..., None]) -> Callable[..., None]:
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(name, hidden=name in hidden),
        )
        for name in RestoreConfig.model_fields
    ]

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in RestoreConfig.model_fields}
        settings = {name: value for name, value in given.items() if value is not None}
        for name in settings.keys() & hidden:
            if not current().quiet:
                flag = "--" + name.replace("_", "-")
                print(f"note: {flag} makes no difference here", file=sys.stderr)
        command(settings=settings, **arguments)

    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.name != "settings"]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    parameters = [*own, *options]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _group(field: Any) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return str(extra.get("group", "other"))


def _annotation(name: str, *, hidden: bool) -> Any:
    """Typer's annotation for one field."""
    field = RestoreConfig.model_fields[name]
    flag = "--" + name.replace("_", "-")
    panel = f"Settings: {_group(field)}"
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(default) or "nothing"
    about = f"{field.description} Default: {'null' if default is None else default}."
    if field.annotation is bool:
        flags = f"{flag}/--no-{flag[2:]}"
        return Annotated[
            Optional[bool],  # noqa: UP045 (typer reads it at run time on Python 3.10)
            typer.Option(
                flags, help=about, rich_help_panel=panel, show_default=False, hidden=hidden
            ),
        ]
    choices = choices_of(field)
    return Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            flag,
            help=about,
            rich_help_panel=panel,
            show_default=False,
            hidden=hidden,
            metavar=_metavar(field),
            # For shells: what a word may become.
            autocompletion=lambda incomplete: [
                one for one in choices if one.startswith(incomplete)
            ],
        ),
    ]


def _metavar(field: Any) -> str:
    if choices := choices_of(field):
        return "|".join(choices)
    parts = get_args(field.annotation)
    if any(get_origin(part) is Literal for part in parts):
        return "NUMBER|auto"
    if float in (field.annotation, *parts):
        return "NUMBER"
    if int in (field.annotation, *parts):
        return "INTEGER"
    return "PATTERNS" if get_origin(field.annotation) is tuple else "TEXT"
