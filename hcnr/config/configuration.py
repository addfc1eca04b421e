"""What every configuration is: frozen, validated, one sentence for the first value it refuses."""

import difflib
import os
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from hcnr.settings import FormerName, choices_of, config_error, declared, expected_of
from hcnr.yaml_file import read_yaml

if TYPE_CHECKING:
    from typing_extensions import Self


class Configuration(BaseModel):
    """Settings of one command or call, declared by `hcnr.settings.setting`.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Hidden from type checkers, which derive a better signature from the fields.
    if not TYPE_CHECKING:

        def __init__(self, /, **values: Any) -> None:
            values = type(self).renamed(values)
            for key in values:
                if key not in type(self).model_fields:
                    raise config_error(_unknown_key(type(self), key))
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise config_error(_first_problem(type(self), error, values)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _tidy(cls, value: Any, info: ValidationInfo) -> Any:
        """Read what YAML and flags write differently, and refuse what pydantic would bend."""
        annotation = cls.model_fields[cast(str, info.field_name)].annotation
        if annotation is Any:
            return value
        if NoneType in get_args(annotation) and (
            value is None or (isinstance(value, str) and value in ("none", "null"))
        ):
            return None
        for part in (annotation, *get_args(annotation)):
            if get_origin(part) is tuple:
                return _patterns(value) if str in get_args(part) else _numbers(value)
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            # YAML reads a bare `yes` as true, which would count as the number 1.
            raise ValueError("a truth value is not a number")
        return value

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], /, **overrides: Any) -> "Self":
        """Read a YAML file; `overrides` win over what it says, and excuse no bad value in it.

        Raises:
            ConfigError: the file cannot be read, or a key or value of any source is refused.
        """
        return cls(**{**checked((cls,), path)[0], **cls.renamed(overrides)})

    @classmethod
    def of(cls, settings: "Self | None", overrides: Mapping[str, Any]) -> "Self":
        """The settings of a call: those given whole, or the defaults, and single ones over them.

        Raises:
            ConfigError: as for construction.
        """
        return cls(**overrides) if settings is None else settings.replace(**overrides)

    def replace(self, **changes: Any) -> "Self":
        """Return a validated copy with some settings changed.

        Raises:
            ConfigError: as for construction.
        """
        # Not model_dump, which would take the values of a setting apart too.
        return type(self)(**{**dict(self), **self.renamed(changes)})

    @classmethod
    def former_names(cls) -> dict[str, str]:
        """The settings' names of older versions, and those of today."""
        fields = cls.model_fields.items()
        return {old: name for name, field in fields for old in declared(field, "formerly")}

    @classmethod
    def renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same settings under the names of today, with a `FormerName` warning for each other.

        Raises:
            ConfigError: one setting is there under two names.
        """
        former, current = cls.former_names(), dict[str, Any]()
        for key, value in values.items():
            name = former.get(key, key)
            if name != key and name in values:
                raise config_error(
                    f"{key} and {name} were both given, and are one setting; leave {key} out, its "
                    "former name"
                )
            if name != key:
                note_former_name(key, f"{name} ({expected_of(cls.model_fields[name])})")
            current[name] = value
        return current


def note_former_name(old: str, new: str) -> None:
    """Warn that a setting has another name now."""
    warnings.warn(f"{old} is now called {new}, and is read as that", FormerName, stacklevel=4)


def checked(
    kinds: Iterable[type[Configuration]], path: str | os.PathLike[str] | None
) -> tuple[dict[str, Any], ...]:
    """What a YAML file says of each of some configurations, which it may hold together.

    A key is the first one's that has it; what none has is refused as the last one refuses it.

    Args:
        kinds: the configurations, those of the command itself first.
        path: None reads as an empty file.

    Returns:
        Of each, the settings that the file has, under the names of today.

    Raises:
        ConfigError: the file is missing, unreadable, no YAML or no mapping; or a key or value is
            refused.
    """
    kinds = tuple(kinds)
    by_kind: tuple[dict[str, Any], ...] = tuple({} for _ in kinds)
    if path is None:
        return by_kind
    for key, value in read_yaml(Path(path).expanduser()).items():
        names = [kind.model_fields.keys() | kind.former_names() for kind in kinds]
        owners = [place for place, known in enumerate(names) if key in known]
        by_kind[owners[0] if owners else -1][key] = value
    try:
        by_kind = tuple(kind.renamed(values) for kind, values in zip(kinds, by_kind, strict=True))
        for kind, values in zip(kinds, by_kind, strict=True):
            kind(**values)
    except ValueError as error:
        raise config_error(f"{path}: {error}") from None
    return by_kind


def _patterns(value: Any) -> tuple[str, ...]:
    """Read glob patterns from a string, a comma-separated string, or a list of either."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("not a list of patterns")
    names = (name.strip() for part in parts for name in part.split(","))
    return tuple(name for name in names if name)


def _numbers(value: Any) -> tuple[Any, ...]:
    """Read numbers from a comma-separated string or any list of them."""
    if isinstance(value, str):
        return tuple(part for part in value.split(",") if part.strip())
    if not isinstance(value, Iterable):
        raise ValueError("not a list of numbers")
    return tuple(value)


def _unknown_key(kind: type[Configuration], key: str) -> str:
    tidy = str(key).lower()
    nearest = difflib.get_close_matches(tidy, kind.model_fields, n=1, cutoff=0.0)[0]
    return f"unknown configuration key {reprlib.repr(key)}; did you mean '{nearest}'?"


def _first_problem(
    kind: type[Configuration], error: ValidationError, values: Mapping[str, Any]
) -> str:
    """Turn pydantic's page into one sentence about the first setting it refuses."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if isinstance(cause := first.get("ctx", {}).get("error"), type(config_error(""))):
        return str(cause)
    field = kind.model_fields[name]
    closest = difflib.get_close_matches(str(values[name]), choices_of(field), n=1)
    cure = f"did you mean {closest[0]!r}?" if closest else "correct this setting"
    return f"{name} is {reprlib.repr(values[name])}, expected {expected_of(field)}; {cure}"
