"""A model as a user names it -> a checkpoint directory, and what is to be said of the way there.

Nothing heavy is imported here before an adapter has to be merged.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcnr.errors import CheckpointError, ConfigError
from hcnr.first_checks import ADAPTER, check_directory
from hcnr.hub import is_model_name, model_snapshot

__all__ = [
    "ADAPTER",
    "AdapterSettings",
    "Given",
    "adapted_modules",
    "adapter_settings",
    "is_adapter",
    "located",
    "named_base",
    "resolve",
]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FULL = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class AdapterSettings:
    """What an adapter's directory says of itself.

    Attributes:
        place: the directory, absolute.
        name: as messages call it.
        kind: of PEFT's types, such as `LORA`.
        base: what it names as its base model; None where it names none.
        revision: of the base on the hub; None where it names none.
        content: all of `adapter_config.json`.
    """

    place: Path
    name: str
    kind: str
    base: str | None
    revision: str | None
    content: dict[str, Any]


@dataclass(frozen=True)
class Given:
    """A model that was named, and the directory that stands for it.

    Attributes:
        name: as messages and reports call it.
        directory: an ordinary checkpoint.
        places: directories that are read, which no output may replace.
        facts: where it comes from, plain values for the report; empty for a directory of its own.
        notes: what a user should know, one sentence each.
        base: what an adapter was merged into; None for everything else.
    """

    name: str
    directory: Path
    places: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    base: "Given | None" = None


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
    place = located(source)
    name = os.fspath(source) if is_model_name(source) else str(place)
    if any((place / name).exists() for name in _FULL):
        raise CheckpointError(
            f"'{place}' holds an adapter ({ADAPTER}) and full weights, and only one of them can be "
            "meant: move the adapter's files, or the full weights, to a directory of their own."
        )
    try:
        content = json.loads((place / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"'{place / ADAPTER}' cannot be read ({reason}): save the adapter again."
        ) from error
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or not kind:
        raise CheckpointError(
            f"'{place / ADAPTER}' names no peft_type: name a directory written by a PeftModel's "
            "`save_pretrained`."
        )
    if not (place / ADAPTER_WEIGHTS).is_file():
        pickled = sorted(p.name for p in place.glob("adapter_model.*") if p.is_file())
        found = f"found {pickled[0]} instead" if pickled else "found none"
        raise CheckpointError(
            f"'{place}' has no {ADAPTER_WEIGHTS} ({found}): save the adapter again with "
            "`save_pretrained`, which writes safetensors."
        )
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    return AdapterSettings(
        place,
        name,
        kind,
        base if isinstance(base, str) and base else None,
        revision if isinstance(revision, str) and revision else None,
        content,
    )


def resolve(source: str | os.PathLike[str], base: Given | None = None) -> Given:
    """Find the checkpoint directory of a model.

    The directory of an adapter is merged into its base once, and the merged checkpoint is kept in
    the cache, see `hcnr.models.adapters.merged_checkpoint`.

    Args:
        source: a checkpoint directory or that of a PEFT adapter, or the name of one on the hub,
            OWNER/NAME or OWNER/NAME@REVISION.
        base: what an adapter is merged into, whatever it names itself; None takes what it names.

    Raises:
        HcnrError: there is nothing of that name, or the adapter cannot be merged.
    """
    facts, notes = _of_the_hub(source)
    if not is_adapter(source):
        place = located(source)
        return Given(os.fspath(source) if facts else str(place), place, (place,), facts, notes)
    settings = adapter_settings(source)
    chosen = named_base(settings) if base is None else base
    from hcnr.models.adapters import merged_checkpoint, peft_version

    merged = merged_checkpoint(settings, chosen.directory)
    although = ""
    if base is not None and settings.base is not None and not _names(settings, base):
        although = f", as given, although it names {settings.base!r} as its base"
    return Given(
        settings.name,
        merged,
        (settings.place, merged, *chosen.places),
        {
            **facts,
            "adapter": settings.kind,
            "named_base": settings.base,
            "merged_into": chosen.name,
            "merged_by": f"peft {peft_version()}",
            **({"base": chosen.facts} if chosen.facts else {}),
        },
        (
            *chosen.notes,
            *notes,
            f"'{settings.name}' is an adapter ({settings.kind}) and was merged into "
            f"'{chosen.name}'{although}; the merged checkpoint is kept in '{merged}'",
        ),
        chosen,
    )


def adapted_modules(settings: AdapterSettings) -> set[str]:
    """Names of the modules that an adapter holds something for, by its file's header.

    Raises:
        CheckpointError: the file is malformed.
    """
    from hcnr.checkpoint import read_header

    found: set[str] = set()
    for info in read_header(settings.place / ADAPTER_WEIGHTS).tensors:
        parts = info.name.removeprefix("base_model.model.").split(".")
        # Behind the module stand a part's name, such as lora_A, and perhaps weight.
        found.update(".".join(parts[:end]) for end in range(1, len(parts)))
    return found


def named_base(settings: AdapterSettings) -> Given:
    """Find the model that an adapter names as its base.

    Raises:
        ConfigError: it names none, itself, or one that is not there.
        HcnrError: as `resolve`.
    """
    cure = "name the checkpoint that it was trained on as BASE"
    if settings.base is None:
        raise ConfigError(f"the adapter '{settings.name}' names no base model; {cure}")
    base = settings.base
    if is_model_name(base) and settings.revision is not None:
        base = f"{base}@{settings.revision}"
    try:
        place = located(base)
        check_directory(place)
    except CheckpointError as error:
        hub = f" ({error})" if is_model_name(base) else ""
        raise ConfigError(
            f"the adapter '{settings.name}' names {base!r} as its base model, which is not "
            f"there{hub}; {cure}"
        ) from None
    if place.resolve() == settings.place.resolve():
        raise ConfigError(f"the adapter '{settings.name}' names itself as its base model; {cure}")
    if is_adapter(base):
        raise ConfigError(
            f"the adapter '{settings.name}' names another adapter, '{base}', as its base model; "
            "merge that one first (peft: `merge_and_unload()`, then `save_pretrained`) and name "
            "the merged directory as BASE"
        )
    return resolve(base)


def _of_the_hub(source: str | os.PathLike[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Facts and notes about a model of the hub; nothing of a directory."""
    if not is_model_name(source):
        return {}, ()
    found = model_snapshot(source)
    note = (
        f"'{os.fspath(source)}' is of the Hugging Face hub, at the revision {found.revision}; name "
        f"it as {found.name}@{found.revision} to get the same again"
    )
    return {"hub": found.name, "revision": found.revision}, (note,)


def _names(settings: AdapterSettings, base: Given) -> bool:
    """Whether an adapter names this very directory, or model of the hub, as its base."""
    if base.facts.get("hub") == settings.base:
        return True
    named = Path(str(settings.base)).expanduser()
    return named.is_dir() and any(
        place.exists() and os.path.samefile(named, place) for place in base.places[:1]
    )
