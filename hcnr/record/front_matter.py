"""The model card's front matter: what tuned's own says, where it comes from, and what was done."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hcnr.data.starter import SOURCE, STARTER
from hcnr.errors import ConfigError
from hcnr.hub import HUB, model_name
from hcnr.models.adapter_files import adapter_settings, is_adapter, located

NO_BASE_MODEL = (
    "the model card names no base_model, because the hub's name of tuned is not known; pass "
    "--tuned-id OWNER/NAME, or --base-model to hcnr push"
)
# Measurements of tuned and its own name are not those of the restored model.
_NOT_KEPT = ("model-index", "eval_results", "model_name", "new_version", "base_model_relation")
_ADAPTERS = ("adapter", "lora", "peft")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Of the hub's cache: models--OWNER--NAME/snapshots/COMMIT.
_CACHED = re.compile(r"models--([^/\\]+?)--([^/\\]+)")


class Origin(NamedTuple):
    """What is known of the models that a restored one is made of.

    Attributes:
        metadata: front matter of tuned's own card; empty where there is none.
        base: the hub's name of base, None where it is not known.
        tuned: the hub's name of tuned.
        notes: what a user should know about it.
    """

    metadata: Mapping[str, Any] = {}
    base: str | None = None
    tuned: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_named(self) -> bool:
        """Whether the card can name a base_model."""
        return self.tuned is not None or "base_model" in self.metadata


def is_hub_id(text: Any) -> bool:
    """Whether a text is OWNER/NAME, as the hub names models, and no folder on this machine."""
    return isinstance(text, str) and bool(_ID.fullmatch(text)) and not os.path.exists(text)


def check_id(option: str, value: str | None) -> None:
    """Raise ConfigError unless `value` is None or looks like a name on the hub."""
    if value is not None and not is_hub_id(value):
        raise ConfigError(
            f"{option} is {value!r}, expected the model's name on the Hugging Face hub, such as "
            "owner/name, and no folder of this machine"
        )


def read_origin(
    base: Any, tuned: Any, base_id: str | None = None, tuned_id: str | None = None
) -> Origin:
    """Find out where both models come from.

    Args:
        base: a checkpoint directory, or a model in memory.
        tuned: the same.
        base_id: the hub's name of base. Otherwise that under which it lies in the hub's cache or
            was loaded; or what tuned's card calls its only base model.
        tuned_id: the same of tuned.

    Raises:
        ConfigError: an id is none.
    """
    check_id("--base-id", base_id)
    check_id("--tuned-id", tuned_id)
    metadata, notes = _metadata(tuned)
    tuned_id = tuned_id or _own_id(tuned)
    base_id = base_id or _own_id(base)
    # A card may name a folder of the machine that wrote it.
    parents = [one for one in _listed(metadata.pop("base_model", None)) if is_hub_id(one)]
    if parents:
        metadata["base_model"] = parents if len(parents) > 1 else parents[0]
    if base_id is None and len(parents) == 1:
        base_id = parents[0]
    if base_id is None and is_adapter(tuned):
        named = adapter_settings(tuned).base
        base_id = named if is_hub_id(named) else None
    return Origin(metadata, base_id, tuned_id, notes)


def front_matter(
    origin: Origin,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    adapter_on: str | None = None,
    *,
    patch: bool = False,
) -> str:
    """YAML of the front matter, between no marks.

    Everything that tuned's card says is kept, such as the licence and the languages, except what
    describes tuned alone. `base_model` names tuned and base where both are known (the relation is
    a merge then) or tuned alone; where its name is not known, what tuned's card says is kept.

    Args:
        origin: what `read_origin` found.
        data: of the report, by data set, with `source`.
        adapter_on: `base` or `tuned`, where the result is an adapter on one of them; None where it
            is a whole checkpoint.
        patch: whether the result is a patch on tuned.
    """
    from huggingface_hub import ModelCardData

    fields = {key: value for key, value in origin.metadata.items() if key not in _NOT_KEPT}
    if origin.tuned is not None:
        both = [origin.tuned, *([origin.base] if origin.base else [])]
        fields["base_model"] = both if len(both) > 1 else both[0]
        fields["base_model_relation"] = "merge" if len(both) > 1 else "finetune"
    elif "base_model" in fields and "base_model_relation" in origin.metadata:
        fields["base_model_relation"] = origin.metadata["base_model_relation"]
    if adapter_on is not None or patch:
        on = origin.base if adapter_on == "base" else origin.tuned
        tags = [*_listed(fields.get("tags")), "patch" if patch else "lora"]
        # The hub takes what is named there for the model that the adapter is put on.
        named = {} if on is None else {"base_model": on, "base_model_relation": "adapter"}
        fields = {k: v for k, v in fields.items() if k not in ("base_model", "base_model_relation")}
        fields |= {"library_name": "hcnr" if patch else "peft", "tags": tags, **named}
    sets = _listed(fields.get("datasets"))
    sets += [name for one in (data or {}).values() if (name := _data_set(one.get("source")))]
    if sets:
        fields["datasets"] = list(dict.fromkeys(sets))
    fields["tags"] = list(dict.fromkeys([*_listed(fields.get("tags")), "hcnr"]))
    fields = {"library_name": "transformers", "pipeline_tag": "text-generation", **fields}
    # It knows the fields' order and leaves out what is empty.
    return ModelCardData(**fields).to_yaml().strip() + "\n"


def _metadata(tuned: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    path = located(tuned) / "README.md" if isinstance(tuned, str | os.PathLike) else None
    if path is None or not path.is_file():
        return {}, ()
    import yaml
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
        metadata = card.data.to_dict()
        kept = {key: value for key, value in metadata.items() if isinstance(key, str)}
        return _of_a_model(kept) if is_adapter(tuned) else kept, ()
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        return {}, (f"nothing of tuned's model card is kept: its front matter is bad ({reason})",)


def _of_a_model(metadata: dict[str, Any]) -> dict[str, Any]:
    """An adapter's front matter without what is said of adapters alone."""
    kept = {key: value for key, value in metadata.items() if key != "library_name"}
    if tags := _listed(kept.pop("tags", None)):
        kept["tags"] = [
            tag
            for tag in tags
            if tag not in _ADAPTERS and not str(tag).startswith("base_model:adapter:")
        ]
    return kept


def _own_id(model: Any) -> str | None:
    """The hub's name of a model, by where it lies in the hub's cache or by its configuration."""
    if (name := model_name(model)) is not None:
        return name
    if isinstance(model, str | os.PathLike):
        for part in reversed(Path(os.path.abspath(model)).parts):
            if match := _CACHED.fullmatch(part):
                return f"{match[1]}/{match[2]}"
        return None
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return name if is_hub_id(name) else None


def _data_set(source: Any) -> str | None:
    """The hub's name of a data set, None of a file."""
    if source == STARTER:
        return SOURCE
    if not isinstance(source, str) or not source.startswith(HUB):
        return None
    name = re.split("[@:]", source.removeprefix(HUB))[0]
    return None if os.path.exists(name) else name


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
