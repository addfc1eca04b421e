"""A recipe from its file or from options; the first mistake in one sentence, with its line."""

import difflib
import functools
import reprlib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hcnr.config.configuration import note_former_name
from hcnr.errors import ConfigError
from hcnr.guided.recipe import DataFiles, Models, RunRecipe, Settings, owner_of
from hcnr.search.grid import kind_hint
from hcnr.settings import expected_of
from hcnr.yaml_file import read_yaml

FORMER, LATTER = "max_task_drop", ("max_task_drop_percent", "max_accuracy_drop")
"""One limit of older versions, and the two that it was."""

KeyPath = tuple[str, ...]
"""Keys from the top down to one."""


def load_recipe(path: Path) -> RunRecipe:
    """Read a recipe; relative paths in it are taken from its folder.

    Raises:
        ConfigError: it cannot be read, or a key or value is refused; names key and line.
    """
    values, lines = read_yaml(path), _lines(path)
    values = _renamed(values, f"{path}, line {lines.get(('settings', FORMER))}: settings.{FORMER}")
    try:
        return RunRecipe(**values).absolute(path.resolve().parent)
    except ValidationError as error:
        raise ConfigError(_problem(path, error, values, lines)) from None


def recipe_of(values: dict[str, Any]) -> RunRecipe:
    """A recipe of the command line, relative paths taken from the working directory.

    Raises:
        ConfigError: a value is refused; named as an option.
    """
    values = _renamed(values, "--" + FORMER.replace("_", "-"))
    try:
        return RunRecipe(**values).absolute(Path.cwd())
    except ValidationError as error:
        message = _problem(None, error, values, {})
        raise ConfigError(message) from None


def _renamed(values: dict[str, Any], called: str) -> dict[str, Any]:
    """The same, where an older version had one limit for what the search and the answers lose.

    Raises:
        ConfigError: one of the two that it has become stands beside it, `called` where it was said.
    """
    settings = values.get("settings")
    if not isinstance(settings, dict) or FORMER not in settings:
        return values
    if beside := [name for name in LATTER if name in settings]:
        raise ConfigError(
            f"{called} is the former name of {' and '.join(LATTER)}, and {' and '.join(beside)} "
            f"{'was' if len(beside) == 1 else 'were'} given beside it; leave {FORMER} out"
        )
    note_former_name(
        FORMER, "max_task_drop_percent (percent of the gain) and max_accuracy_drop (points)"
    )
    both = dict.fromkeys(LATTER, settings[FORMER])
    rest = {key: value for key, value in settings.items() if key != FORMER}
    return {**values, "settings": {**both, **rest}}


def _lines(path: Path) -> dict[KeyPath, int]:
    """Line of every key, counted from 1, by its path from the top."""
    lines: dict[KeyPath, int] = {}

    def walk(node: yaml.Node | None, where: KeyPath) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*where, str(key.value))
                lines[inner] = key.start_mark.line + 1
                walk(value, inner)

    walk(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), ())
    return lines


def _problem(
    path: Path | None, error: ValidationError, values: dict[str, Any], lines: dict[KeyPath, int]
) -> str:
    """Pydantic's page as one sentence about the first key that it refuses."""
    first = error.errors(include_url=False, include_context=True)[0]
    where = tuple(str(part) for part in first["loc"])
    if first["type"] != "missing":
        where = _known(where, values)
    nearest = next((where[:n] for n in (2, 1) if where[:n] in lines), ())
    at = f"{path}, line {lines[nearest]}: " if nearest else f"{path}: "
    name, part = ".".join(where), _part(where)
    if path is None:
        at, name = "", "--" + where[-1].replace("_", "-")
    if first["type"] == "missing":
        cure = f"write '{where[-1]}: ...'" + (f" below '{where[0]}:'" if where[1:] else "")
        return f"{at}{name} is missing, expected {_expected(part, where)}; {cure}"
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(where[-1].lower(), part.model_fields, 1, cutoff=0.0)[0]
        return f"{at}unknown key {reprlib.repr(name)}; did you mean '{close}'?"
    value = reprlib.repr(functools.reduce(dict.__getitem__, where, values))
    cure = "correct it"
    if where[-1] == "compensation" and part is Settings:
        cure = kind_hint(str(functools.reduce(dict.__getitem__, where, values)))
    return f"{at}{name} is {value}, expected {_expected(part, where)}; {cure}"


def _known(where: KeyPath, values: Any) -> KeyPath:
    """As much of a path as there is; a union's own parts are no keys."""
    for depth, step in enumerate(where):
        if not isinstance(values, dict) or step not in values:
            return where[:depth]
        values = values[step]
    return where


def _part(where: KeyPath) -> type[BaseModel]:
    """The model that a key belongs to."""
    parts = {"models": Models, "data": DataFiles, "settings": Settings}
    return parts.get(where[0], RunRecipe) if len(where) > 1 else RunRecipe


def _expected(part: type[BaseModel], where: KeyPath) -> str:
    field: FieldInfo | None = part.model_fields.get(where[-1])
    extra = field.json_schema_extra if field is not None else None
    if isinstance(extra, dict) and extra.get("expected"):
        return str(extra["expected"])
    if (kind := owner_of(where[-1])) is not None:
        return expected_of(kind.model_fields[where[-1]])
    return "keys with values below it, such as '  task: task.jsonl'"
