"""How a setting is declared, and said in words: for help, files and errors."""

from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import Field
from pydantic.fields import FieldInfo

from hcnr.kinds import kind_names

if TYPE_CHECKING:
    from hcnr.errors import ConfigError


def setting(
    default: Any, group: str, description: str, *, choices: tuple[str, ...] = (), **limits: Any
) -> Any:
    """Declare a field; `group` heads its part of the YAML file and of the command line's help.

    `choices` are names that are checked elsewhere, because others may be registered.
    """
    extra: Any = {"group": group, "choices": list(choices)}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def expected_of(field: FieldInfo) -> str:
    """Say in words what a field accepts."""
    annotation = field.annotation
    parts = get_args(annotation)
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
    if annotation is str:
        return "auto or a torch device such as cpu, cuda or cuda:1"
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
    return tuple(cast(dict[str, Any], field.json_schema_extra)["choices"])


def _limits(annotation: Any) -> tuple[Any, ...]:
    """Limits of one part of a union."""
    return getattr(annotation, "__metadata__", ())


def group_of(field: FieldInfo) -> str:
    """Return the heading under which a field is listed."""
    return str(cast(dict[str, Any], field.json_schema_extra)["group"])


def config_error(message: str) -> "ConfigError":
    """A `ConfigError`, whose module is imported only now."""
    # The errors share a root with the operator library, which needs torch; a configuration
    # that is right should not pay for it.
    from hcnr.errors import ConfigError

    return ConfigError(message)
