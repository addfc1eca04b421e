"""`hcnr.yaml`: what one `hcnr run` works on and how, written with comments and read with lines."""

import difflib
import functools
import os
import reprlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from hcnr.benchmarks.splits import HONESTY_SETS, TASK_SETS
from hcnr.config import RestoreConfig, SweepConfig
from hcnr.config.configuration import Configuration, note_former_name
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.errors import ConfigError
from hcnr.hub import HUB, is_model_name
from hcnr.kinds import plain_name
from hcnr.search.grid import grid_kinds, kind_hint
from hcnr.settings import expected_of
from hcnr.yaml_file import read_yaml

__all__ = ["FILE", "RunRecipe", "load_recipe", "recipe_of"]

FILE = "hcnr.yaml"
_HEADER = """\
# One hcnr run: `hcnr run --recipe hcnr.yaml` does it, or goes on with it; the results lie beside
# this file. Paths may be relative to it. Steps whose settings you change are done again.
"""

FORMER, LATTER = "max_task_drop", ("max_task_drop_percent", "max_accuracy_drop")
"""One limit of older versions, and the two that it was."""
Place = tuple[str, ...]
"""Keys from the top down to one."""
_NAMES = (STARTER, VALIDATION, *HONESTY_SETS, *TASK_SETS)


def _field(default: Any, about: str, expected: str, **limits: Any) -> Any:
    """Declare a key: its comment in the file, and the words of what it accepts."""
    return Field(default, description=about, json_schema_extra={"expected": expected}, **limits)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


_MODEL = "a directory, or OWNER/NAME of the Hugging Face hub"


class Models(_Part):
    """The pair."""

    base: str = _field(
        ..., "The honest checkpoint, before fine-tuning: a directory or OWNER/NAME.", _MODEL
    )
    tuned: str = _field(..., "The fine-tuned checkpoint, or an adapter; in the same way.", _MODEL)
    base_revision: str | None = _field(
        None,
        "Fingerprint of base as it was when this file was written; null takes whatever is there.",
        "the fingerprint of a checkpoint, or null",
    )
    tuned_revision: str | None = _field(
        None, "The same of tuned.", "the fingerprint of a checkpoint, or null"
    )
    base_id: str | None = _field(
        None, "Base on the Hugging Face hub, for the model card.", "OWNER/NAME, or null"
    )
    tuned_id: str | None = _field(None, "The same of tuned.", "OWNER/NAME, or null")
    tokenizer: str | None = _field(
        None, "Where tuned does not come with its own.", "a directory, or null"
    )


class DataFiles(_Part):
    """Samples and questions."""

    task: str = _field(
        ...,
        "Samples of what tuned was tuned for. Half of them are measured, and a quarter each is "
        "held back to choose and to judge by, unless there are more than enough.",
        "a file of samples, or hf:NAME",
    )
    honesty: str = _field(
        STARTER, "Honesty samples to measure.", "a file of samples, starter, or hf:NAME"
    )
    validation: str = _field(
        VALIDATION,
        "Honesty questions to choose by.",
        "a file of questions, starter-validation, or hf:NAME",
    )
    questions: str = _field(
        STARTER,
        "Honesty questions to judge by; none of them may be measured or chosen by.",
        "a file of questions, starter, or hf:NAME",
    )
    task_validation: str | None = _field(
        None,
        "Task questions to choose by; null asks task samples that were held back.",
        "a file of questions, hf:NAME, or null",
    )
    task_questions: str | None = _field(
        None, "Task questions to judge by; null as above.", "a file of questions, hf:NAME, or null"
    )


_WHOLE, _SIZE = "a whole number, at least 1", {"ge": 1}


class Settings(_Part):
    """What a user may want to change; the rest are the defaults of `hcnr restore`."""

    compensation: str = _field(
        "spectral",
        "The kind of repair; interpolation stands beside it anyway.",
        f"one of {', '.join(grid_kinds())}",
    )
    task_weight: float | str = _field(
        "auto",
        "Weight of the task in it; auto searches the smallest that max_task_drop_percent allows, "
        "and tries three and ten times that too.",
        "",
    )
    max_task_drop_percent: float = _field(
        2.0,
        "What of the task the search may give up: percent of what fine-tuning gained in "
        "likelihood.",
        "",
    )
    max_accuracy_drop: float = _field(
        2.0, "Points of task accuracy that what is chosen and judged may lose.", ""
    )
    samples: int = _field(128, "Samples measured of each data set, at most.", "")
    shuffle_seed: int | None = _field(
        None, "Seed that shuffles the samples first; null takes them in their order.", ""
    )
    max_length: int = _field(1024, "Tokens kept of a sample.", "")
    chat_template: str = _field("auto", "auto uses the tokenizer's if it has one, or never.", "")
    limit: int | None = _field(
        None, "Questions asked of each set at most; null asks all.", f"{_WHOLE}, or null", **_SIZE
    )
    max_new_tokens: int = _field(64, "Most tokens of an answer.", _WHOLE, **_SIZE)
    batch_size: int = _field(
        32, "Questions asked at once; halved where memory runs out.", _WHOLE, **_SIZE
    )
    device: str = _field("auto", "Where to compute: auto, cpu, cuda, cuda:1 and so on.", "")
    dtype: str = _field("auto", "Of the measuring passes; auto keeps the checkpoint's.", "")

    @field_validator("*", mode="before")
    @classmethod
    def _as_restore(cls, value: Any, info: ValidationInfo) -> Any:
        """Read and refuse what `hcnr restore` has too in its words."""
        name = cast(str, info.field_name)
        if name == "compensation" and plain_name(str(value)) not in grid_kinds():
            raise ValueError("no kind of a run")
        kind = _owner(name)
        return value if kind is None else getattr(kind(**{name: value}), name)

    def config(self) -> RestoreConfig:
        """The configuration of `hcnr restore`."""
        shared = self.model_dump()
        return RestoreConfig(**{k: v for k, v in shared.items() if k in RestoreConfig.model_fields})


class RunRecipe(_Part):
    """Everything that decides one run.

    Attributes:
        models: the pair.
        data: samples and questions.
        settings: what may be changed.
        versions: with which it was written; others are noted, not refused.
    """

    models: Models
    data: DataFiles
    settings: Settings = Settings()
    versions: dict[str, str] = Field(
        default={},
        description="Versions that this file was written with; others are noted, not refused.",
        json_schema_extra={"expected": "names and versions as texts"},
    )

    def to_yaml(self) -> str:
        """The file: every key with its comment; `load_recipe` reads it back equal."""
        lines = [_HEADER]
        for part in ("models", "data", "settings"):
            lines.append(f"\n{part}:\n")
            section = getattr(self, part)
            for key, about in type(section).model_fields.items():
                text = textwrap.fill(str(about.description), 94)
                lines.append(textwrap.indent(text, "  # ") + "\n")
                lines.append(f"  {key}: {_plain(getattr(section, key))}\n")
        lines.append(f"\n# {type(self).model_fields['versions'].description}\nversions:\n")
        lines += [f"  {key}: {_plain(value)}\n" for key, value in self.versions.items()]
        return "".join(lines) if self.versions else "".join(lines).rstrip() + " {}\n"

    def placed(self, folder: Path) -> "RunRecipe":
        """The recipe with absolute paths, relative ones taken from `folder`."""
        models, data = self.models, self.data
        named = {key: getattr(models, key) for key in ("base", "tuned", "tokenizer")}
        files = {key: getattr(data, key) for key in DataFiles.model_fields}
        return self.model_copy(
            update={
                "models": models.model_copy(
                    update={key: _place(name, folder, _is_model) for key, name in named.items()}
                ),
                "data": data.model_copy(
                    update={key: _place(name, folder, _is_data) for key, name in files.items()}
                ),
            }
        )


def _place(source: str | None, folder: Path, is_name: Callable[[str, Path], bool]) -> str | None:
    """An absolute path; names that are none stay. Links stay links, as the user knows them."""
    if source is None or is_name(source, folder):
        return source
    return os.path.abspath(folder / Path(source).expanduser())


def _is_model(source: str, folder: Path) -> bool:
    """Whether it is a model of the hub and no directory, here or in the folder of the recipe."""
    return is_model_name(source) and not (folder / source).exists()


def _is_data(source: str, folder: Path) -> bool:
    """Whether it is a set that comes with hcnr, a published one, or one of the hub."""
    return source in _NAMES or source.startswith(HUB)


def load_recipe(path: Path) -> RunRecipe:
    """Read a recipe; relative paths in it are taken from its folder.

    Raises:
        ConfigError: it cannot be read, or a key or value is refused; names key and line.
    """
    values, lines = read_yaml(path), _lines(path)
    values = _renamed(values, f"{path}, line {lines.get(('settings', FORMER))}: settings.{FORMER}")
    try:
        return RunRecipe(**values).placed(path.resolve().parent)
    except ValidationError as error:
        raise ConfigError(_problem(path, error, values, lines)) from None


def recipe_of(values: dict[str, Any]) -> RunRecipe:
    """A recipe of the command line, relative paths taken from the working directory.

    Raises:
        ConfigError: a value is refused; named as an option.
    """
    values = _renamed(values, "--" + FORMER.replace("_", "-"))
    try:
        return RunRecipe(**values).placed(Path.cwd())
    except ValidationError as error:
        message = _problem(None, error, values, {})
        raise ConfigError(message) from None


def _owner(name: str) -> type[Configuration] | None:
    """The configuration whose words a setting of a run is checked in; None where it has its own."""
    if name == "max_accuracy_drop":
        return SweepConfig
    return RestoreConfig if name in RestoreConfig.model_fields else None


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


def _lines(path: Path) -> dict[Place, int]:
    """Line of every key, counted from 1, by its place."""
    found: dict[Place, int] = {}

    def walk(node: yaml.Node | None, where: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*where, str(key.value))
                found[inner] = key.start_mark.line + 1
                walk(value, inner)

    walk(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), ())
    return found


def _problem(
    path: Path | None, error: ValidationError, values: dict[str, Any], lines: dict[Place, int]
) -> str:
    """Pydantic's page as one sentence about the first key that it refuses."""
    first = error.errors(include_url=False, include_context=True)[0]
    where = tuple(str(part) for part in first["loc"])
    if first["type"] != "missing":
        where = _known(where, values)
    near = next((where[:n] for n in (2, 1) if where[:n] in lines), ())
    at = f"{path}, line {lines[near]}: " if near else f"{path}: "
    name, part = ".".join(where), _part(where)
    if path is None:
        at, name = "", "--" + where[-1].replace("_", "-")
    if first["type"] == "missing":
        cure = f"write '{where[-1]}: ...'" + (f" below '{where[0]}:'" if where[1:] else "")
        return f"{at}{name} is missing, expected {_expected(part, where)}; {cure}"
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(where[-1].lower(), part.model_fields, 1, cutoff=0.0)[0]
        return f"{at}unknown key {reprlib.repr(name)}; did you mean '{close}'?"
    found = reprlib.repr(functools.reduce(dict.__getitem__, where, values))
    cure = "correct it"
    if where[-1] == "compensation" and part is Settings:
        cure = kind_hint(str(functools.reduce(dict.__getitem__, where, values)))
    return f"{at}{name} is {found}, expected {_expected(part, where)}; {cure}"


def _known(where: Place, values: Any) -> Place:
    """As much of a place as there is; a union's own parts are no keys."""
    for depth, step in enumerate(where):
        if not isinstance(values, dict) or step not in values:
            return where[:depth]
        values = values[step]
    return where


def _part(where: Place) -> type[BaseModel]:
    """The model that a key belongs to."""
    parts = {"models": Models, "data": DataFiles, "settings": Settings}
    return parts.get(where[0], RunRecipe) if len(where) > 1 else RunRecipe


def _expected(part: type[BaseModel], where: Place) -> str:
    found: FieldInfo | None = part.model_fields.get(where[-1])
    extra = found.json_schema_extra if found is not None else None
    if isinstance(extra, dict) and extra.get("expected"):
        return str(extra["expected"])
    if (kind := _owner(where[-1])) is not None:
        return expected_of(kind.model_fields[where[-1]])
    return "keys with values below it, such as '  task: task.jsonl'"


def _plain(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).splitlines()[0]
