"""How a setting is declared, and said in words: for help, files and errors."""

from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from hcnr.kinds import kind_names

if TYPE_CHECKING:
    from hcnr.errors import ConfigError


def setting(
    default: Any,
    group: str,
    description: str,
    *,
    choices: tuple[str, ...] = (),
    expected: str = "",
    more: str = "",
    metavar: str = "",
    formerly: tuple[str, ...] = (),
    option: bool = True,
    **limits: Any,
) -> Any:
    """Declare a field of a `Configuration`, once for Python, files and the command line.

    Args:
        default: its value where none is given.
        group: what it belongs to; heads its part of the YAML file and of restore's help.
        description: what it does; its help.
        choices: names that are checked elsewhere, because others may be registered.
        expected: what it accepts, where its type and limits do not say it.
        more: what the documentation of the Python call adds to `description`.
        metavar: what stands for its value in the help, where its type does not say it.
        formerly: names that it had in older versions; they are read, with a note.
        option: whether it is an option of the command.
        limits: as of `pydantic.Field`.
    """
    extra: Any = {
        "group": group, "choices": list(choices), "expected": expected, "more": more,
        "metavar": metavar, "formerly": formerly,
        "option": option,
    }  # fmt: skip
    return Field(default, description=description, json_schema_extra=extra, **limits)


class FormerName(FutureWarning):
    """A setting was given by the name that it had in an older version; a note of a command."""


def declared(field: FieldInfo, key: str) -> Any:
    """What `setting` was told about a field beside its type: `group`, `more` and so on."""
    return cast(dict[str, Any], field.json_schema_extra)[key]


def expected_of(field: FieldInfo) -> str:
    """Say in words what a field accepts."""
    if expected := declared(field, "expected"):
        return str(expected)
    annotation = field.annotation
    parts = get_args(annotation)
    if bool in parts:
        return "auto, true or false"
    if any(get_origin(part) is Literal for part in parts):
        limits = [limit.le for part in parts for limit in _limits(part) if isinstance(limit, Le)]
        return "auto or a finite number, at least 0" + "".join(f", at most {le}" for le in limits)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(get_args(annotation))
    if choices_of(field):
        return "one of " + ", ".join(kind_names())
    if get_origin(annotation) is tuple:
        some = "at least one pattern" if field.is_required() or field.default else "patterns"
        return f"{some} such as '*.q_proj', as a list or separated by commas"
    if annotation is bool:
        return "true or false"
    if str in (annotation, *parts):
        return "text"
    whole = float not in (annotation, *parts)
    words = ["a whole number" if whole else "a finite number"]
    for limit in field.metadata:
        if isinstance(limit, Ge):
            words.append(f"at least {limit.ge}")
        elif isinstance(limit, Gt):
            words.append(f"above {limit.gt}")
        elif isinstance(limit, Le):
            words.append(f"at most {limit.le}")
    return ", ".join(words) + (", or null" if NoneType in get_args(annotation) else "")


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field accepts; none where it accepts something else."""
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)
    return tuple(declared(field, "choices"))


def _limits(annotation: Any) -> tuple[Any, ...]:
    """Limits of one part of a union."""
    return getattr(annotation, "__metadata__", ())


def of_group(kind: type[BaseModel], group: str) -> tuple[str, ...]:
    """Names of the settings of one group that are options."""
    fields = kind.model_fields.items()
    return tuple(
        name for name, field in fields
        if declared(field, "group") == group and declared(field, "option")
    )  # fmt: skip


def config_error(message: str) -> "ConfigError":
    """A `ConfigError`, whose module is imported only now."""
    # The errors share a root with the operator library, which needs torch; a configuration
    # that is right should not pay for it.
    from hcnr.errors import ConfigError

    return ConfigError(message)
