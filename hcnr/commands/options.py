"""Command-line options generated from the fields of configurations."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from hcnr.config import RestoreConfig
from hcnr.config.configuration import Configuration
from hcnr.output import current, keyword, with_parameters
from hcnr.settings import choices_of, declared

Tokenizer = Annotated[
    str | None,
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
    str | None,
    typer.Option(
        "--base-id", metavar="OWNER/NAME", help="BASE on the Hugging Face hub, for the card."
    ),
]
TunedId = Annotated[
    str | None,
    typer.Option(
        "--tuned-id", metavar="OWNER/NAME", help="TUNED on the hub: the card's base_model."
    ),
]


def config_options(
    kind: type[Configuration] = RestoreConfig, *, into: str = "settings", unused: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every key of a configuration as an option.

    The command takes a keyword argument that gets the keys that were given, by name. Checking them
    is left to the configuration, so that a flag, a YAML line and a Python argument are refused in
    the same words; those of a command's own configuration have their lower limits in the help too.

    Args:
        kind: the configuration. Those of a restoration are listed last, in panels, as text; a
            command's own stand where `into` stands among its parameters.
        into: name of that argument.
        unused: keys, or groups of keys, that the command does not use: its help does not list
            them, and a note says so where one is given, as in the line of another command.
    """
    fields = {name: one for name, one in kind.model_fields.items() if declared(one, "option")}
    hidden = {
        name
        for name, field in fields.items()
        if not {name, declared(field, "group")}.isdisjoint(unused)
    }
    former = [
        keyword(old, Annotated[str | None, typer.Option("--" + _dashed(old), hidden=True)])
        for old in kind.former_names()
        if declared(kind.model_fields[kind.former_names()[old]], "option")
    ]
    if kind is RestoreConfig:
        options = [keyword(name, _listed(name, f, name in hidden)) for name, f in fields.items()]
    else:
        options = [keyword(name, *_shown(name, field)) for name, field in fields.items()]
    return functools.partial(_with_options, [*options, *former], into, hidden)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    # By name: typer has a click of its own.
    return getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"


def _with_options(
    options: list[inspect.Parameter], into: str, hidden: set[str], command: Callable[..., None]
) -> Callable[..., None]:
    signature = inspect.signature(command)
    own_context = "context" in signature.parameters
    # A former name that both configurations of a command have is its own's.
    options = [option for option in options if option.name not in signature.parameters]

    @functools.wraps(command)
    def wrapper(context: typer.Context, **arguments: Any) -> None:
        values = {option.name: arguments.pop(option.name) for option in options}
        settings = {name: value for name, value in values.items() if given(context, name)}
        for name in settings.keys() & hidden:
            if not current().quiet:
                flag = "--" + _dashed(name)
                print(f"note: {flag} makes no difference here", file=sys.stderr)
        if own_context:
            arguments["context"] = context
        command(**{into: settings}, **arguments)

    parameters = [] if own_context else [keyword("context", typer.Context, inspect.Parameter.empty)]
    for parameter in signature.parameters.values():
        parameters += options if parameter.name == into else [parameter]
    return with_parameters(wrapper, parameters)


def _shown(name: str, field: FieldInfo) -> tuple[Any, Any]:
    """Typer's annotation and default of a command's own setting."""
    flag, default = "--" + _dashed(name), field.default
    parts = (field.annotation, *get_args(field.annotation))
    plain = next((one for one in (bool, int, float, Path) if one in parts), str)
    if isinstance(default, tuple):
        plain, default = str, ",".join(f"{one:g}" for one in default)
    if plain is bool and default:
        flag = f"{flag}/--no-{flag[2:]}"
    lowest = [limit.ge for limit in field.metadata if isinstance(limit, Ge)]
    if any(isinstance(limit, Le) for limit in field.metadata):
        lowest = []
    option = typer.Option(
        flag,
        help=field.description,
        min=cast(Any, lowest[0]) if lowest else None,
        metavar=declared(field, "metavar") or None,
    )
    return Annotated[plain if default is not None else plain | None, option], default


def _listed(name: str, field: FieldInfo, hidden: bool) -> Any:
    """Typer's annotation for a setting of a restoration; None where it is not given."""
    flag = "--" + _dashed(name)
    panel = f"Settings: {declared(field, 'group')}"
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(default) or "nothing"
    about = f"{field.description} Default: {'null' if default is None else default}."
    if bool in (field.annotation, *get_args(field.annotation)):
        flags = f"{flag}/--no-{flag[2:]}"
        return Annotated[
            bool | None,
            typer.Option(
                flags, help=about, rich_help_panel=panel, show_default=False, hidden=hidden
            ),
        ]
    choices = choices_of(field)
    return Annotated[
        str | None,
        typer.Option(
            flag,
            help=about,
            rich_help_panel=panel,
            show_default=False,
            hidden=hidden,
            metavar=_metavar(field),
            # For shells: what a word may become.
            autocompletion=lambda incomplete: [
                choice for choice in choices if choice.startswith(incomplete)
            ],
        ),
    ]


def _metavar(field: FieldInfo) -> str:
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
