"""`hcnr.yaml`: what one `hcnr run` works on and how; `recipe_file` reads it."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from hcnr.benchmarks.splits import HONESTY_SETS, TASK_SETS
from hcnr.config import RestoreConfig, SweepConfig
from hcnr.config.configuration import Configuration
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.hub import HUB, is_model_name
from hcnr.kinds import plain_name
from hcnr.search.grid import grid_kinds

FILE = "hcnr.yaml"
_HEADER = """\
# One hcnr run: `hcnr run --recipe hcnr.yaml` does it, or goes on with it; the results lie beside
# this file. Paths may be relative to it. Steps whose settings you change are done again.
"""

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
        kind = owner_of(name)
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

    def absolute(self, folder: Path) -> "RunRecipe":
        """The recipe with absolute paths, relative ones taken from `folder`."""
        models, data = self.models, self.data
        named = {key: getattr(models, key) for key in ("base", "tuned", "tokenizer")}
        files = {key: getattr(data, key) for key in DataFiles.model_fields}
        return self.model_copy(
            update={
                "models": models.model_copy(
                    update={key: _absolute(name, folder, _is_model) for key, name in named.items()}
                ),
                "data": data.model_copy(
                    update={key: _absolute(name, folder, _is_data) for key, name in files.items()}
                ),
            }
        )


def _absolute(source: str | None, folder: Path, is_name: Callable[[str, Path], bool]) -> str | None:
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


def owner_of(name: str) -> type[Configuration] | None:
    """The configuration whose words a setting of a run is checked in; None where it has its own."""
    if name == "max_accuracy_drop":
        return SweepConfig
    return RestoreConfig if name in RestoreConfig.model_fields else None


def _plain(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).splitlines()[0]
