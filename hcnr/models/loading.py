"""What every loading shares: no code of a checkpoint runs, and no weight is invented.

transformers would ask at the terminal whether to run a checkpoint's own code, invent what a file
does not hold at random, and raise whatever its parts raise. None of that may pass unseen.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hcnr.errors import NO_ROOM, CheckpointError, HcnrError, ModelError, system_error

"""Arguments of every `from_pretrained`: nothing is downloaded, and no code that came along runs."""
ADAPTERS = (".lora_A", ".lora_B", ".lora_embedding_", ".lora_magnitude_vector", ".base_layer.")
WRAPPERS = (
    "_orig_mod.",
    "module.",
    "base_model.model.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
)
_LONGEST = 300


@contextlib.contextmanager
def explained(failure: str, source: Any = None, cure: str = "") -> Iterator[None]:
    """Turn whatever a library raises inside into one sentence.

    Args:
        failure: what could not be done, such as `DIR cannot be opened as a language model`.
        source: the directory that is read; a value that is unknown is found in its `config.json`.
        cure: what to do, appended after the cause.

    Raises:
        ModelError: the failure and its cause.
        OSError: as it is where a disk is full, which an output explains.
    """
    try:
        with _silent():
            yield
    except (HcnrError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if (failed := system_error(error)) is not None and failed.errno in NO_ROOM:
            # A full disk: whoever writes there says so, and no input is to be mended.
            raise
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{failure}: it needs code of its own (auto_map in its configuration), which hcnr "
                "never runs; use a transformers version that has this model, or convert the "
                "checkpoint where you trust the code"
            ) from error
        raise ModelError(f"{failure}: {cause_of(error, source)}{cure}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' bars and reports back: what matters of them becomes a sentence of ours."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def cause_of(error: BaseException, source: Any = None) -> str:
    """A library's error in one line, without its closing full stop.

    An unknown value is traced back to its key in the `config.json` of directory `source`.
    """
    if isinstance(error, KeyError) and error.args:
        for key, value in _settings(source):
            if value == error.args[0]:
                return f"{key} of config.json is {value!r}, which it does not know"
    text = " ".join(str(error).split()).rstrip(".")
    if not text or isinstance(error, KeyError | AttributeError | AssertionError):
        text = f"{type(error).__name__}{f': {text}' if text else ''}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _settings(source: Any) -> Iterator[tuple[str, Any]]:
    """Keys, with dots between levels, and values of a directory's `config.json`."""
    if not isinstance(source, str | Path):
        return
    try:
        content = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    levels = [("", content)]
    while levels:
        prefix, level = levels.pop(0)
        if not isinstance(level, Mapping):
            continue
        for key, value in level.items():
            yield f"{prefix}{key}", value
            levels.append((f"{prefix}{key}.", value))


def check_loaded(loading: Mapping[str, Any], source: Any, model: Any) -> None:
    """Refuse a model of which the checkpoint does not hold everything.

    Args:
        loading: what `from_pretrained(..., output_loading_info=True)` said.
        source: the checkpoint.
        model: the model that was built from it.

    Raises:
        CheckpointError: naming the first weight that is missing or has another shape.
    """
    kind = type(model).__name__
    unused = sorted(loading["unexpected_keys"])
    if parts := [name for name in unused if any(part in name for part in ADAPTERS)]:
        raise CheckpointError(
            f"'{source}' holds {parts[0]!r}{_more(parts)}, a part of an adapter that is not "
            "merged: merge it (peft: `merge_and_unload()`, then `save_pretrained`) and name the "
            "merged directory"
        )
    order = {name: position for position, name in enumerate(model.state_dict())}
    if missing := sorted(loading["missing_keys"], key=lambda name: order.get(name, len(order))):
        raise CheckpointError(
            f"'{source}' holds no {missing[0]!r}{_more(missing)}, which {kind} has: transformers "
            f"would invent it at random; {_cure(model, missing[0], unused)}"
        )
    if mismatched := sorted(loading["mismatched_keys"], key=lambda key: order.get(key[0], 0)):
        name, stored, expected = mismatched[0]
        raise CheckpointError(
            f"'{source}' holds {name!r}{_more(mismatched)} with the shape {list(stored)}, and "
            f"{kind} has {list(expected)} by its config.json: correct config.json, or save the "
            "checkpoint again"
        )
    if loading.get("error_msgs"):
        first = " ".join(str(loading["error_msgs"][0]).split())
        raise CheckpointError(f"'{source}' cannot be loaded as {kind}: {first}")


def _cure(model: Any, missing: str, unused: list[str]) -> str:
    """What to do about a missing weight, judged by what is stored without having a place."""
    wrapped = [name for name in unused if name.startswith(WRAPPERS)]
    if wrapped:
        return (
            f"names such as {wrapped[0]!r} come from a wrapper around the model (torch.compile, "
            "data parallelism, peft): save the model inside of it"
        )
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if any(
        module is head and f"{name}.weight" == missing for name, module in model.named_modules()
    ):
        return (
            "download it completely, or set tie_word_embeddings to true in its config.json if its "
            "head is its embedding"
        )
    return "download it completely, or save all weights of the model again"


def _more(names: list[Any]) -> str:
    return f" (with {len(names) - 1} more)" if len(names) > 1 else ""
