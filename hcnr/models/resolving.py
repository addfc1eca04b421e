"""A model as a user names it -> a checkpoint directory, and what is to be said of the way there.

Nothing heavy is imported here before an adapter has to be merged.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcnr.directories import check_directory
from hcnr.errors import CheckpointError, ConfigError
from hcnr.hub import is_model_name, model_snapshot
from hcnr.models.adapter_files import AdapterSettings, adapter_settings, is_adapter, located

__all__ = [
    "ResolvedModel",
    "named_base",
    "resolve",
]


@dataclass(frozen=True)
class ResolvedModel:
    """A model that was named, and the directory that stands for it.

    Attributes:
        name: as messages and reports call it.
        directory: an ordinary checkpoint.
        read_paths: directories that are read, which no output may replace.
        facts: where it comes from, plain values for the report; empty for a directory of its own.
        notes: what a user should know, one sentence each.
        base: what an adapter was merged into; None for everything else.
    """

    name: str
    directory: Path
    read_paths: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    base: "ResolvedModel | None" = None


def resolve(source: str | os.PathLike[str], base: ResolvedModel | None = None) -> ResolvedModel:
    """Find the checkpoint directory of a model.

    The directory of an adapter is merged into its base once, and the merged checkpoint is kept in
    the cache, see `hcnr.models.adapters.merged_checkpoint`. So is a quantised checkpoint,
    dequantised by the library of its format, see `hcnr.models.quantised.convert`.

    Args:
        source: a checkpoint directory or that of a PEFT adapter, a GGUF file or the directory of
            one, or the name of a model on the hub, OWNER/NAME or OWNER/NAME@REVISION.
        base: what an adapter is merged into, whatever it names itself; None takes what it names.

    Raises:
        HcnrError: there is nothing of that name, or the adapter cannot be merged.
    """
    facts, notes = _of_the_hub(source)
    if not is_adapter(source):
        path = located(source)
        name = os.fspath(source) if facts else str(path)
        return _plain(ResolvedModel(name, path, (path,), facts, notes))
    settings = adapter_settings(source)
    chosen = named_base(settings) if base is None else base
    from hcnr.models.adapters import merged_checkpoint, peft_version

    merged = merged_checkpoint(settings, chosen.directory)
    although = ""
    if base is not None and settings.base is not None and not _names(settings, base):
        although = f", as given, although it names {settings.base!r} as its base"
    return ResolvedModel(
        settings.name,
        merged,
        (settings.directory, merged, *chosen.read_paths),
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


def _plain(resolved: ResolvedModel) -> ResolvedModel:
    """What stands for a quantised model; any other as it is."""
    path = resolved.directory
    if _is_gguf(path):
        from hcnr.models.packages.gguf import convert_gguf

        plain, dtype, by = convert_gguf(path), "bfloat16", "transformers"
        facts, what = {"quantised": "gguf"}, "a GGUF file"
    elif path.is_dir():
        from hcnr.models.quantised.convert import dequantised

        converted = dequantised(path)
        if converted is None:
            return resolved
        plain, dtype, by = converted.directory, converted.dtype, converted.by
        facts = {"quantised": converted.method}
        what = f"quantised ({converted.method}, {converted.count} weights)"
    else:
        return resolved
    note = (
        f"'{resolved.name}' is {what} and was dequantised by {by}: all that follows, and what is "
        f"written, is of unquantised weights in {dtype}; they are kept in '{plain}'"
    )
    return ResolvedModel(
        resolved.name,
        plain,
        (*resolved.read_paths, plain),
        {**resolved.facts, **facts, "dequantised_by": by, "dequantised_to": dtype},
        (*resolved.notes, note),
    )


def _is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, or a directory with no other weights than such files."""
    if path.is_file():
        return path.suffix == ".gguf"
    if not path.is_dir() or any(path.glob("*.safetensors*")):
        return False
    return any(path.glob("*.gguf"))


def named_base(settings: AdapterSettings) -> ResolvedModel:
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
        path = located(base)
        check_directory(path)
    except CheckpointError as error:
        hub = f" ({error})" if is_model_name(base) else ""
        raise ConfigError(
            f"the adapter '{settings.name}' names {base!r} as its base model, which is not "
            f"there{hub}; {cure}"
        ) from None
    if path.resolve() == settings.directory.resolve():
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
    hub = model_snapshot(source)
    note = (
        f"'{os.fspath(source)}' is of the Hugging Face hub, at the revision {hub.revision}; name "
        f"it as {hub.name}@{hub.revision} to get the same again"
    )
    return {"hub": hub.name, "revision": hub.revision}, (note,)


def _names(settings: AdapterSettings, base: ResolvedModel) -> bool:
    """Whether an adapter names this very directory, or model of the hub, as its base."""
    if base.facts.get("hub") == settings.base:
        return True
    named = Path(str(settings.base)).expanduser()
    return named.is_dir() and any(
        place.exists() and os.path.samefile(named, place) for place in base.read_paths[:1]
    )
