"""What a checkpoint directory must hold, and what to do when it holds something else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hcnr.checkpoint.headers import Shard, read_header
from hcnr.directories import ADAPTER, PATCH, check_directory
from hcnr.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Formats that run code when they are opened, or that other tools read.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_config(directory: Path) -> dict[str, Any]:
    """Read `config.json` of a checkpoint directory.

    Args:
        directory: what the user named.

    Returns:
        The content of `config.json`.

    Raises:
        CheckpointError: not a directory, an adapter, a patch, or no readable `config.json`.
    """
    check_directory(directory)
    if (directory / ADAPTER).exists():
        # Beside full weights it is refused too: transformers would then open another model (the
        # adapter on the base model it names) than the tensors we would repair.
        raise CheckpointError(
            f"'{directory}' is an adapter (it holds {ADAPTER}), and a whole checkpoint is needed "
            "here; merge it into its base model first (peft: `merge_and_unload()`, then "
            "`save_pretrained`) and name the merged directory"
        )
    if (directory / PATCH).exists():
        raise CheckpointError(
            f"'{directory}' is a patch (it holds {PATCH}), and a whole checkpoint is needed here; "
            "put it on TUNED (`hcnr apply TUNED PATCH --out DIR`) and name DIR"
        )
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            f"'{directory}' is not a checkpoint (it has no config.json); name a directory written "
            "by `save_pretrained`"
        )
    return read_json(directory / "config.json")


def find_shards(directory: Path) -> tuple[Shard, ...]:
    """Read the headers of all weight files of a checkpoint directory.

    A single file goes before an index, as in transformers.

    Args:
        directory: an existing directory.

    Returns:
        The shards in the order of their names.

    Raises:
        CheckpointError: no safetensors weights, or an index that does not match its shards.
    """
    if (directory / SINGLE).exists():
        return (read_header(directory / SINGLE),)
    index = directory / INDEX
    if not index.exists():
        raise _no_weights(directory)
    weight_map = _weight_map(index)
    shards: dict[str, Shard] = {}
    for name in sorted(set(weight_map.values())):
        if not (directory / name).exists():
            raise CheckpointError(
                f"'{index}' names the shard {name!r}, which is missing; complete the download"
            )
        shards[name] = read_header(directory / name)
    stored = {name: {info.name for info in shard.tensors} for name, shard in shards.items()}
    for tensor, name in weight_map.items():
        if tensor not in stored[name]:
            raise CheckpointError(
                f"'{index}' places {tensor!r} in {name!r}, which does not hold it; download or "
                "save the checkpoint again"
            )
    return tuple(shards.values())


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file cannot be read or holds anything else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"cannot read '{file}' ({error.strerror or error}); complete the download or fix its "
            "permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{file}' is not valid JSON ({error}); download or save it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"'{file}' holds a JSON {type(content).__name__} instead of an object; download or "
            "save it again"
        )
    return content


def _weight_map(index: Path) -> Mapping[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"'{index}' has no weight_map from tensors to shards; download or save it again"
        )
    for tensor, name in weight_map.items():
        plain = (
            isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
        )
        if not plain:
            # Reading or writing outside the directory is how a crafted index would do harm.
            raise CheckpointError(
                f"'{index}' places {tensor!r} in {name!r}, which is no plain file name inside the "
                "directory; do not trust this checkpoint, or correct its index"
            )
        if not name.endswith(".safetensors"):
            raise CheckpointError(
                f"'{index}' places {tensor!r} in {name!r}, and only .safetensors files are read; "
                "convert the weights with `save_pretrained`"
            )
    return weight_map


def _no_weights(directory: Path) -> CheckpointError:
    names = sorted(entry.name for entry in directory.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return CheckpointError(
            f"'{directory}' holds pickled weights only ({pickles[0]}), which can run code when "
            "opened; convert them where you trust them, with `AutoModelForCausalLM."
            "from_pretrained(DIR).save_pretrained(NEW_DIR)`, which writes safetensors"
        )
    others = [name for name in names if name.endswith((".safetensors", ".gguf"))]
    instead = f"found {others[0]} instead" if others else "found no weights"
    return CheckpointError(
        f"'{directory}' is not a checkpoint: {SINGLE} or {INDEX} was expected, and we {instead}; "
        "name a directory written by `save_pretrained`"
    )
