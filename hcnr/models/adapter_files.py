"""What a PEFT adapter's directory says of itself; none of its weights is read here."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.directories import ADAPTER
from hcnr.errors import CheckpointError
from hcnr.hub import is_model_name, model_snapshot

ADAPTER_WEIGHTS = "adapter_model.safetensors"


_FULL = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class AdapterSettings:
    """What an adapter's directory says of itself.

    Attributes:
        directory: the directory, absolute.
        name: as messages call it.
        kind: of PEFT's types, such as `LORA`.
        base: what it names as its base model; None where it names none.
        revision: of the base on the hub; None where it names none.
        content: all of `adapter_config.json`.
    """

    directory: Path
    name: str
    kind: str
    base: str | None
    revision: str | None
    content: dict[str, Any]


def is_adapter(source: Any) -> bool:
    """Whether a path, or a name of the hub, is that of a PEFT adapter."""
    if not isinstance(source, str | os.PathLike):
        return False
    return (located(source) / ADAPTER).is_file()


def located(source: str | os.PathLike[str]) -> Path:
    """The directory of a model; one of the hub is downloaded unless it is in its cache.

    Raises:
        CheckpointError: it is neither, see `hcnr.hub.model_snapshot`.
    """
    if is_model_name(source):
        return model_snapshot(source).directory
    return Path(source).expanduser().absolute()


def adapter_settings(source: str | os.PathLike[str]) -> AdapterSettings:
    """Read what an adapter says of itself; none of its weights.

    Raises:
        CheckpointError: it is malformed, has no safetensors weights, or full weights beside them.
    """
    directory = located(source)
    name = os.fspath(source) if is_model_name(source) else str(directory)
    if any((directory / name).exists() for name in _FULL):
        raise CheckpointError(
            f"'{directory}' holds an adapter ({ADAPTER}) and full weights, and only one of them "
            "can be meant; move the adapter's files, or the full weights, to a directory of their "
            "own"
        )
    try:
        content = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"'{directory / ADAPTER}' cannot be read ({reason}); save the adapter again"
        ) from error
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or not kind:
        raise CheckpointError(
            f"'{directory / ADAPTER}' names no peft_type; name a directory written by a "
            "PeftModel's `save_pretrained`"
        )
    if not (directory / ADAPTER_WEIGHTS).is_file():
        pickled = sorted(p.name for p in directory.glob("adapter_model.*") if p.is_file())
        instead = f"found {pickled[0]} instead" if pickled else "found none"
        raise CheckpointError(
            f"'{directory}' has no {ADAPTER_WEIGHTS} ({instead}); save the adapter again with "
            "`save_pretrained`, which writes safetensors"
        )
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    return AdapterSettings(
        directory,
        name,
        kind,
        base if isinstance(base, str) and base else None,
        revision if isinstance(revision, str) and revision else None,
        content,
    )


def adapted_modules(settings: AdapterSettings) -> set[str]:
    """Name of the modules that an adapter holds something for, by its file's header.

    Raises:
        CheckpointError: the file is malformed.
    """
    from hcnr.checkpoint import read_header

    modules: set[str] = set()
    for info in read_header(settings.directory / ADAPTER_WEIGHTS).tensors:
        parts = info.name.removeprefix("base_model.model.").split(".")
        # Behind the module stand a part's name, such as lora_A, and perhaps weight.
        modules.update(".".join(parts[:end]) for end in range(1, len(parts)))
    return modules
