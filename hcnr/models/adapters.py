"""PEFT adapters -> ordinary checkpoints and models, merged by PEFT itself and looked at after."""

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnr.cache import as_readable, cache_root, cached_directory
from hcnr.checkpoint import (
    Checkpoint,
    check_unquantised,
    files_of,
    read_header,
    stamps,
    write_copy,
)
from hcnr.directories import ADAPTER
from hcnr.errors import CheckpointError, HcnrError, ModelError, OutputError
from hcnr.models.adapter_files import ADAPTER_WEIGHTS, AdapterSettings, adapted_modules
from hcnr.models.loading import explained
from hcnr.models.model import open_model, open_skeleton
from hcnr.models.placed import PlacedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "is_peft_model",
    "merge_into",
    "merge_model",
    "merged_checkpoint",
    "peft_version",
    "unloaded",
    "words",
]

# Raised whenever merging writes something else.
_FORMAT = 1
_TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges")
# Of the largest logit: what float32 leaves between a merged model and its adapter beside it.
_TOLERANCE = 1e-3
_TOKENS = 8
_TASKS = (None, "CAUSAL_LM")


def peft_version() -> str:
    """The installed version of PEFT.

    Raises:
        ModelError: it is not installed.
    """
    # A folder of that name in the working directory is found too, without an origin.
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise ModelError(
            "adapters are merged by the package peft, which is not installed; run pip install "
            "'hcnr[peft]'"
        )
    return importlib.metadata.version("peft")


def is_peft_model(model: Any) -> bool:
    """Whether an object is PEFT's wrapper around a model; imports nothing."""
    return any(kind.__module__.startswith("peft.") for kind in type(model).__mro__) and hasattr(
        model, "merge_and_unload"
    )


def merged_checkpoint(settings: AdapterSettings, base: Path) -> Path:
    """Merge an adapter into a checkpoint, once: the result is kept in the cache.

    Merging is done in float32 (float64 where the base is) and rounded once to the dtype of each
    stored weight; what the adapter leaves alone is the base's, byte for byte. The key covers the
    adapter's files, names, sizes and times of change of the base's, a few rows, and PEFT's version.

    Args:
        settings: of the adapter.
        base: the checkpoint directory that it is merged into.

    Returns:
        A directory with base's shards and small files, and with the adapter's tokenizer where it
        brings one.

    Raises:
        ModelError: PEFT is missing or refuses the adapter, or merging changes what it computes.
        CheckpointError: the base is no usable checkpoint, or the adapter has parts without a place.
        OutputError: the cache cannot be written.
    """
    version, checkpoint = peft_version(), Checkpoint.open(base)
    check_unquantised(checkpoint)
    own = settings.directory
    read_header(own / ADAPTER_WEIGHTS)
    files = [own / ADAPTER, own / ADAPTER_WEIGHTS, *words(own)]
    about = [
        [_FORMAT, version, str(base.resolve())],
        [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files],
        stamps(files_of(checkpoint)),
        checkpoint.fingerprint(checkpoint.tensors),
        hashlib.sha256((base / "config.json").read_bytes()).hexdigest(),
    ]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(settings.name).name)[:80]
    try:
        return cached_directory(
            f"adapter-{name}-{key}",
            lambda directory: _write(settings, checkpoint, directory),
            nbytes=checkpoint.nbytes,
        )
    except HcnrError:
        raise
    except OSError as error:
        raise OutputError(
            f"the merged checkpoint cannot be written below {cache_root()} "
            f"({error.strerror or error}); free space there, or set HCNR_CACHE to a folder that "
            "can be written"
        ) from error


def merge_into(model: "PreTrainedModel", settings: AdapterSettings) -> "PreTrainedModel":
    """Merge an adapter into a model in memory.

    Args:
        model: what it was trained on; changed, and only good for the result afterwards.
        settings: of the adapter.

    Returns:
        The merged model, of `model`'s class.

    Raises:
        ModelError: PEFT is missing or refuses the adapter, or merging changes what it computes.
        CheckpointError: a part of the adapter has no place in the model, or the model lacks one.
    """
    peft_version()
    from peft import PeftConfig, PeftModelForCausalLM

    where = f"the adapter '{settings.name}' ({settings.kind})"
    with explained(f"{where} cannot be put on {type(model).__name__}"), _silent():
        config: Any = PeftConfig.from_pretrained(str(settings.directory))
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise ModelError(
                f"{where} changes no weights but adds to the prompt, so there is nothing that "
                "could be merged or repaired; name a fine-tuning that changes weights"
            )
        if (task := getattr(config.task_type, "value", config.task_type)) not in _TASKS:
            raise ModelError(
                f"{where} is for {task}, expected CAUSAL_LM; name an adapter of a causal language "
                "model"
            )
        _check_saved(config.modules_to_save or (), settings)
        config.inference_mode = True
        adapted: Any = PeftModelForCausalLM(model, config)
        loading = adapted.load_adapter(str(settings.directory), "default", is_trainable=False)
    _check_complete(loading, settings)
    return _merged(adapted, where)


def merge_model(adapted: Any) -> "PreTrainedModel":
    """Merge the active adapters of PEFT's model in memory into a copy of it.

    Raises:
        ModelError: PEFT refuses it, or merging changes what it computes.
    """
    if getattr(adapted, "peft_type", None) is None or not hasattr(
        adapted.base_model, "merge_and_unload"
    ):
        raise ModelError(
            f"{type(adapted).__name__} has no weights that could be merged; pass a model whose "
            "adapters change weights"
        )
    return _merged(copy.deepcopy(adapted), type(adapted).__name__)


def unloaded(adapted: Any) -> "PreTrainedModel":
    """A copy of the model below PEFT's adapters, as it was before them."""
    with explained(f"{type(adapted).__name__} cannot be parted from its adapters"), _silent():
        return copy.deepcopy(adapted).unload().eval()


def _merged(adapted: Any, where: str) -> "PreTrainedModel":
    with explained(f"{where} cannot be merged"), _silent(), torch.no_grad():
        adapted.eval()
        rows = adapted.get_input_embeddings().weight
        ids = torch.arange(_TOKENS, device=rows.device)[None] % rows.shape[0]
        before = adapted(input_ids=ids, use_cache=False).logits
        merged = adapted.merge_and_unload(safe_merge=True).eval()
        after = merged(input_ids=ids, use_cache=False).logits
    exact = before.dtype in (torch.float32, torch.float64)
    difference = float((before - after).abs().max() / before.abs().max())
    # In fewer digits it is rounding that shows; a tied head that was changed is found above all.
    if not difference <= (_TOLERANCE if exact else 0.5):
        raise ModelError(
            f"{where} computes something else once it is merged (logits differ by {difference:.1%} "
            "of the largest), as where an adapter on the embedding is merged into a head that is "
            "tied to it; untie the two, or train without that part"
        )
    return merged


def _check_complete(loading: Any, settings: AdapterSettings) -> None:
    """Refuse what PEFT passes over: parts without a place, and places that were left as made."""
    where = f"'{settings.directory / ADAPTER_WEIGHTS}'"
    if unexpected := sorted(loading.unexpected_keys):
        raise CheckpointError(
            f"{where} holds {unexpected[0]!r}{_more(unexpected)}, which has no place in the base "
            "model: name the checkpoint that the adapter was trained on as BASE"
        )
    _refuse_missing(sorted(loading.missing_keys), settings)


def _refuse_missing(missing: list[str], settings: AdapterSettings) -> None:
    if missing:
        raise CheckpointError(
            f"'{settings.directory / ADAPTER_WEIGHTS}' holds no {missing[0]!r}{_more(missing)}, "
            f"which {ADAPTER} asks for and PEFT would invent: save the adapter again, or name the "
            "checkpoint that it was trained on as BASE"
        )


def _check_saved(modules: Sequence[str], settings: AdapterSettings) -> None:
    """Refuse an adapter without the modules that it says were trained whole."""
    stored = adapted_modules(settings)
    suffixes = {name.rsplit(".", 1)[-1] for name in stored} | stored
    _refuse_missing([name for name in modules if name not in suffixes], settings)


def _write(settings: AdapterSettings, base: Checkpoint, directory: Path) -> None:
    dtypes = {info.dtype for info in base.tensors.values()}
    dtype = "auto" if torch.float64 in dtypes else "float32"
    merged = merge_into(open_model(base.path, device="cpu", dtype=dtype), settings)
    # Of the base itself: the merged model may have a head of its own.
    placed = PlacedCheckpoint(base, open_skeleton(base.path, base.tensors))
    changed = dict(_changes(merged.state_dict(), placed, settings))

    def stored(name: str) -> Tensor:
        return changed[name].to(placed.infos[name].dtype)

    write_copy(base, directory, placed.replacing(stored, changed))
    for file in words(settings.directory):
        shutil.copyfile(file, directory / file.name)
    as_readable(directory)


def _changes(
    state: Mapping[str, Tensor], base: PlacedCheckpoint, settings: AdapterSettings
) -> Iterator[tuple[str, Tensor]]:
    """Weights of a merged model that are not the base's, by name."""
    where = base.checkpoint.path
    places = {weight.data_ptr() for name, weight in state.items() if name in base.infos}
    for name, weight in state.items():
        if name not in base.infos:
            if weight.data_ptr() in places:
                continue  # tied to a stored one
            raise CheckpointError(
                f"the adapter '{settings.name}' gives the model a {name} of its own, which "
                f"'{where}' does not store (its head is its embedding): merge it yourself "
                "(peft: `merge_and_unload()`, then `save_pretrained` with tie_word_embeddings "
                "false) and name the merged directory as TUNED"
            )
        if weight.shape != base.infos[name].shape:
            raise CheckpointError(
                f"{name} is {list(weight.shape)} with the adapter '{settings.name}' and "
                f"{list(base.infos[name].shape)} in '{where}': merge it yourself (peft: "
                "`merge_and_unload()`, then `save_pretrained`) and name the merged directory"
            )
        before = base.parameter(name)
        assert before is not None
        if not torch.equal(weight, before.to(weight.dtype)):
            yield name, weight


def words(directory: Path) -> list[Path]:
    """Files of a tokenizer that an adapter brings along."""
    if not (directory / "tokenizer_config.json").is_file():
        return []
    return sorted(p for p in directory.iterdir() if p.is_file() and p.name.startswith(_TOKENIZER))


@contextmanager
def _silent() -> Iterator[None]:
    """Without PEFT's warnings: what matters of them is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _more(names: list[str]) -> str:
    return f" (with {len(names) - 1} more)" if len(names) > 1 else ""
