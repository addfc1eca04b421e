"""A quantised checkpoint -> a plain one in the cache, tensor by tensor."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hcnr.cache import as_readable, cache_root, cached_directory
from hcnr.checkpoint import Checkpoint, copy_companions, files_of, stamps
from hcnr.errors import CheckpointError, HcnrError, OutputError
from hcnr.models.quantised.compressed import ACTIVATIONS
from hcnr.models.quantised.formats import READERS, Quantised, settings_of

# Raised whenever the conversion writes something else.
_FORMAT = 1
_SHARD = 2 << 30
"""Bytes of a written file, above which the next begins: what is held in memory at once."""
_FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16,
           "bfloat16": torch.bfloat16}  # fmt: skip
_STRAY = ("quantize_config.json", "quant_config.json")


@dataclass(frozen=True)
class Dequantised:
    """A plain checkpoint that stands for a quantised one.

    Attributes:
        directory: the plain one, in the cache.
        method: `quant_method` of the quantised one.
        by: what dequantised it, with its version.
        dtype: in which the dequantised weights are stored.
        count: how many weights were quantised.
    """

    directory: Path
    method: str
    by: str
    dtype: str
    count: int


def dequantised(path: Path) -> Dequantised | None:
    """Dequantise a checkpoint directory, once: the result is kept in the cache.

    Every weight is dequantised in float32 and rounded once to the dtype that `config.json` names;
    what is stored in plain floats stays as it is. One written file is held in memory at a time.

    Returns:
        None where it is not quantised in a way that can be undone here (a plain one, GPTQ, ...).

    Raises:
        ModelError: the library of the format is not installed.
        CheckpointError: the stored tensors are not what the format asks for.
        OutputError: the cache cannot be written.
    """
    if not (path / "config.json").is_file():
        return None
    checkpoint = Checkpoint.open(path)
    settings = settings_of(checkpoint.config)
    # A configuration alone may be a leftover of training.
    if settings is None or not any(_is_code(i.dtype) for i in checkpoint.tensors.values()):
        return None
    read = READERS[settings["quant_method"]](checkpoint, settings)
    if not read.weights:
        return None
    dtype = _dtype(checkpoint, read)
    _check_rest(checkpoint, read)
    about = [
        [_FORMAT, read.by, str(path.resolve()), dtype],
        # What is copied belongs to it: a tokenizer, say.
        stamps(files_of(checkpoint)),
        hashlib.sha256((path / "config.json").read_bytes()).hexdigest(),
    ]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name)[:80]
    try:
        directory = cached_directory(
            f"plain-{name}-{key}",
            lambda place: _write(checkpoint, read, dtype, place),
            nbytes=_nbytes(checkpoint, read, dtype),
        )
    except HcnrError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"the dequantised checkpoint cannot be written below {cache_root()} ({reason}); free "
            "space there, or set HCNR_CACHE to a folder that can be written"
        ) from error
    return Dequantised(directory, read.method, read.by, dtype, len(read.weights))


def _is_code(dtype: torch.dtype) -> bool:
    return dtype == torch.int32 or (dtype.itemsize == 1 and dtype != torch.bool)


def _dtype(checkpoint: Checkpoint, read: Quantised) -> str:
    """What the configuration names, else what most other weights are stored in."""
    text = checkpoint.config.get("text_config")
    for config in (checkpoint.config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if (named := str(config.get(key)).removeprefix("torch.")) in _FLOATS:
                return named
    names = Counter(
        str(info.dtype).removeprefix("torch.")
        for name, info in checkpoint.tensors.items()
        if name not in read.parts
    )
    return next((name for name, _ in names.most_common() if name in _FLOATS), "bfloat16")


def _check_rest(checkpoint: Checkpoint, read: Quantised) -> None:
    """Refuse tensors that would be left quantised, or that nobody would have used."""
    for name, info in checkpoint.tensors.items():
        if name in read.parts or _of_activations(name):
            continue
        scale = name.endswith(("_scale", "_scale_inv", "_zero_point"))
        if _is_code(info.dtype) or scale:
            raise CheckpointError(
                f"'{checkpoint.path}' is quantised by {read.method} and also stores {name!r} "
                f"({str(info.dtype).removeprefix('torch.')}), which is part of no weight of that "
                "format: download it again, or name the weights from before quantisation"
            )


def _of_activations(name: str) -> bool:
    return name.rpartition(".")[2] in ACTIVATIONS


def _nbytes(checkpoint: Checkpoint, read: Quantised, dtype: str) -> int:
    """What is written takes, by the shapes of what is stored; headers and small files left out."""
    numbers = other = 0
    for name, info in checkpoint.tensors.items():
        if name in read.weights and name in read.parts:
            # Bytes without a sign hold two numbers each, bitsandbytes' of 4 bits.
            numbers += math.prod(info.shape) * (2 if info.dtype == torch.uint8 else 1)
        elif name.endswith("weight_packed") and name in read.parts:
            shape = f"{name.removesuffix('packed')}shape"
            if shape in checkpoint.tensors:
                numbers += math.prod(checkpoint.load(shape).tolist())
        elif name not in read.parts and not _of_activations(name):
            other += info.nbytes
    return numbers * _FLOATS[dtype].itemsize + other


def _write(checkpoint: Checkpoint, read: Quantised, dtype: str, directory: Path) -> None:
    files: list[tuple[Path, list[str]]] = []
    held: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        file = directory / f"{len(files)}.part"
        save_file(held, file, metadata={"format": "pt"})
        files.append((file, list(held)))
        held.clear()

    # A weight of several parts stands where the first of them stood.
    owners = _owners(checkpoint, read)
    for name in owners:
        whole = read.weights.get(name)
        tensor = checkpoint.load(name) if whole is None else whole().to(_FLOATS[dtype])
        if held and size + tensor.nbytes > _SHARD:
            flush()
            size = 0
        held[name] = tensor.contiguous()
        size += tensor.nbytes
        total += tensor.nbytes
        del tensor
    flush()
    _name_files(files, total, directory)
    copy_companions(checkpoint, directory)
    for stray in _STRAY:
        (directory / stray).unlink(missing_ok=True)
    _write_config(checkpoint.config, directory / "config.json")
    as_readable(directory)


def _owners(checkpoint: Checkpoint, read: Quantised) -> list[str]:
    """Names of what is written, in the order of the files."""
    owners: dict[str, None] = {}
    for name in checkpoint.tensors:
        if name not in read.parts:
            if not _of_activations(name):
                owners[name] = None
        elif name in read.weights:
            owners[name] = None
        else:
            plain = f"{name.rpartition('.')[0]}.weight"
            if plain in read.weights and plain not in checkpoint.tensors:
                owners[plain] = None
    if missing := read.weights.keys() - owners.keys():
        raise AssertionError(f"{sorted(missing)[0]} has no place")
    return list(owners)


def _name_files(files: list[tuple[Path, list[str]]], total: int, directory: Path) -> None:
    if len(files) == 1:
        files[0][0].rename(directory / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, (file, names) in enumerate(files, 1):
        final = f"model-{number:05}-of-{len(files):05}.safetensors"
        file.rename(directory / final)
        places.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    text = json.dumps(index, indent=2) + "\n"
    (directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _write_config(config: dict[str, Any], file: Path) -> None:
    """The configuration without what says that weights are quantised, nested ones too."""
    stray = ("quantization_config", "compression_config")

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: plain(one) for key, one in value.items() if key not in stray}

    file.write_text(json.dumps(plain(config), indent=2) + "\n", encoding="utf-8")
