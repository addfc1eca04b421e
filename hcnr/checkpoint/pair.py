"""Whether two checkpoints can be repaired against each other, before anything is computed."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from hcnr.checkpoint.quantised import check_unquantised
from hcnr.checkpoint.reader import Checkpoint
from hcnr.errors import CheckpointError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Settings that change what the weights mean although every shape stays the same.
MEANING = (
    "hidden_act",
    "hidden_activation",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
)


def check_pair(base: Checkpoint, tuned: Checkpoint, weights: Sequence[str]) -> list[str]:
    """Check that base and tuned are one architecture and agree on every target weight.

    Args:
        base: the honest checkpoint before fine-tuning.
        tuned: the checkpoint after it.
        weights: names of the target weights, such as `model.layers.0.self_attn.q_proj.weight`.

    Returns:
        What is fine but worth saying, one sentence each; empty when there is nothing.

    Raises:
        CheckpointError: different architectures, quantised weights, a target that is missing in
            one, has different shapes, or is not stored as float64, float32, float16 or bfloat16.
    """
    _check_architecture(base, tuned)
    sides = (("base", base), ("tuned", tuned))
    for checkpoint in (base, tuned):
        check_unquantised(checkpoint)
    for name in weights:
        for side, checkpoint in sides:
            _check_target(name, side, checkpoint, weights)
        ours, theirs = base.tensors[name], tuned.tensors[name]
        if ours.shape != theirs.shape:
            raise CheckpointError(
                f"the target {name!r} has the shape {list(ours.shape)} in base ('{base.path}') and "
                f"{list(theirs.shape)} in tuned ('{tuned.path}'); name two checkpoints of the same "
                "size"
            )
    return [
        *_say_same(base, tuned),
        *_say_labels(base, tuned),
        *_say_settings(base, tuned),
        *_say_dtypes(base, tuned, weights),
        *_say_vocabulary(base, tuned),
        *_say_others(base, tuned, set(weights)),
    ]


def _check_architecture(base: Checkpoint, tuned: Checkpoint) -> None:
    ours, theirs = base.config.get("model_type"), tuned.config.get("model_type")
    # Hand-written configs may leave it out; the weights are compared anyway.
    if ours and theirs and ours != theirs:
        raise CheckpointError(
            f"base and tuned are different architectures: model_type is {_plain(ours)} in "
            f"'{base.path}' and {_plain(theirs)} in '{tuned.path}'; name the checkpoint that "
            "the fine-tuning started from"
        )


def _check_target(name: str, side: str, checkpoint: Checkpoint, weights: Sequence[str]) -> None:
    info = checkpoint.tensors.get(name)
    if info is None:
        missing = sum(weight not in checkpoint.tensors for weight in weights)
        more = f" (with {missing - 1} more)" if missing > 1 else ""
        raise CheckpointError(
            f"the target {name!r} is missing{more} in {side} ('{checkpoint.path}'); name "
            "checkpoints of one architecture, or leave it out of the targets"
        )
    if info.dtype not in FLOATS:
        raise CheckpointError(
            f"the target {name!r} is stored as {_dtype(info.dtype)} in {side} "
            f"('{checkpoint.path}'), and one of {', '.join(map(_dtype, FLOATS))} was expected; "
            "name unquantised weights"
        )


def _say_same(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    if not os.path.samefile(base.path, tuned.path):
        return []
    return [f"base and tuned are the same directory ('{base.path}'): there is nothing to repair."]


def _say_labels(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    # Training frameworks write their own class there; whether all weights of the model are stored
    # is checked apart from it.
    ours, theirs = base.config.get("architectures"), tuned.config.get("architectures")
    if not (ours and theirs) or ours == theirs:
        return []
    return [
        f"architectures is {_plain(ours)} in base and {_plain(theirs)} in tuned; what "
        "transformers does not know as a language model is read as that of its model_type, and the "
        "output keeps tuned's."
    ]


def _say_settings(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    pairs = [(key, _setting(base, key), _setting(tuned, key)) for key in MEANING]
    return [
        f"{key} is {ours} in base and {theirs} in tuned; the output keeps tuned's."
        for key, ours, theirs in pairs
        if ours is not None and theirs is not None and ours != theirs
    ]


def _say_dtypes(base: Checkpoint, tuned: Checkpoint, weights: Sequence[str]) -> list[str]:
    pairs = Counter((base.tensors[name].dtype, tuned.tensors[name].dtype) for name in weights)
    return [
        f"{_count(count, 'target is', 'targets are')} {_dtype(ours)} in base and {_dtype(theirs)} "
        "in tuned; the output keeps tuned's dtype."
        for (ours, theirs), count in pairs.items()
        if ours != theirs
    ]


def _say_vocabulary(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    ours, theirs = _setting(base, "vocab_size"), _setting(tuned, "vocab_size")
    if ours == theirs:
        return []
    return [
        f"The vocabulary has {ours} entries in base and {theirs} in tuned; embeddings are no "
        "targets, and the output keeps tuned's."
    ]


def _say_others(base: Checkpoint, tuned: Checkpoint, weights: set[str]) -> list[str]:
    messages = []
    for name in tuned.tensors:
        if name in weights or name not in base.tensors:
            continue
        ours, theirs = base.tensors[name].shape, tuned.tensors[name].shape
        if ours != theirs:
            messages.append(
                f"{name!r} is no target and has the shape {list(ours)} in base and {list(theirs)} "
                "in tuned; the output keeps tuned's."
            )
    for side, here, there in (("base", base, tuned), ("tuned", tuned, base)):
        only = [name for name in here.tensors if name not in there.tensors]
        # A head that only one of the two stores is the usual trace of tied embeddings.
        heads = [name for name in only if there.has_tied_embeddings and "head" in name]
        for name in heads:
            messages.append(
                f"{name!r} exists in {side} only, because the other ties it to its embeddings; "
                "both are no targets, and the output keeps what tuned has."
            )
        rest = [name for name in only if name not in heads]
        if rest:
            messages.append(
                f"{_count(len(rest), 'tensor that is', 'tensors that are')} no target "
                f"{'exists' if len(rest) == 1 else 'exist'} in {side} only ({_some(rest)}); the "
                "output keeps what tuned has."
            )
    return messages


def _setting(checkpoint: Checkpoint, key: str) -> Any:
    """A config value; models of several modalities keep it in `text_config`."""
    text = checkpoint.config.get("text_config")
    nested = text.get(key) if isinstance(text, dict) else None
    return checkpoint.config.get(key, nested)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _count(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
