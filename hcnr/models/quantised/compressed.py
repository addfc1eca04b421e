"""Checkpoints that compressed-tensors wrote (llm-compressor's), decompressed by it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError

_WEIGHT = {"weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape",
           "weight_global_scale"}  # fmt: skip
ACTIVATIONS = {
    *(f"{what}_{kind}" for what in ("input", "output", "q", "k", "v")
      for kind in ("scale", "zero_point", "global_scale")),
    "input_scale_ub", "activation_scale",
}  # fmt: skip
"""Last parts of names of what quantises activations, which is left out."""
_KNOWN = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")


def read_compressed(
    checkpoint: Checkpoint, settings: Mapping[str, Any]
) -> tuple[dict[str, Callable[[], Tensor]], frozenset[str]]:
    """Find the compressed weights.

    Args:
        checkpoint: holds them.
        settings: its `quantization_config`.

    Returns:
        Name of a plain weight -> a call that decompresses it, in float32; and the names of all
        tensors that are used.

    Raises:
        CheckpointError: the settings or the tensors are not those of a format that was tried.
    """
    quantization = _validated(checkpoint, settings)
    modules: dict[str, dict[str, str]] = {}
    for name in checkpoint.tensors:
        module, _, part = name.rpartition(".")
        if part.startswith("weight"):
            modules.setdefault(module, {})[part] = name
    weights, parts = {}, set()
    for module, stored in modules.items():
        if not {"weight_packed", "weight_scale"} & set(stored):
            continue
        if unknown := sorted(set(stored) - _WEIGHT):
            raise CheckpointError(
                f"'{checkpoint.path}' stores {stored[unknown[0]]!r}, which no decompression of a "
                "weight by itself takes in (an order of columns, or sparsity): name the weights "
                "from before quantisation"
            )
        scheme = _scheme(checkpoint, module, quantization)
        weights[f"{module}.weight"] = _decompressed(checkpoint, stored, scheme)
        parts.update(stored.values())
    return weights, frozenset(parts)


def _validated(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Any:
    from compressed_tensors.quantization import QuantizationConfig  # pyright: ignore[reportMissingImports]

    try:
        quantization: Any = QuantizationConfig.model_validate(dict(settings))
    except ValueError as error:
        line = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"compressed-tensors cannot read the quantization_config of '{checkpoint.path}' "
            f"({line}): install the version that wrote it"
        ) from error
    if (sparse := settings.get("sparsity_config")) and sparse.get("format", "dense") != "dense":
        raise CheckpointError(
            f"'{checkpoint.path}' is compressed as sparse ({sparse.get('format')}), and dense "
            "weights were expected: name the weights from before compression"
        )
    return quantization


def _scheme(checkpoint: Checkpoint, module: str, quantization: Any) -> tuple[str, Any]:
    """Format and scheme of a module: the group that names it, else the one of linear layers."""
    from compressed_tensors.utils.match import match_name  # pyright: ignore[reportMissingImports]

    groups = list(quantization.config_groups.values())
    named = [g for g in groups if any(match_name(module, target) for target in g.targets)]
    general = [g for g in groups if "Linear" in g.targets]
    schemes = (named or general)[:1]
    kind = str(getattr(schemes[0].format, "value", schemes[0].format)) if schemes else ""
    if kind in ("", "None"):
        kind = str(quantization.format)
    if not schemes or schemes[0].weights is None or kind not in _KNOWN:
        raise CheckpointError(
            f"'{checkpoint.path}' stores {module!r} in the format {kind or 'of no group'!r} of "
            f"compressed-tensors, expected one of {', '.join(_KNOWN)}: name the weights from "
            "before quantisation"
        )
    return kind, schemes[0]


def _decompressed(
    checkpoint: Checkpoint, stored: Mapping[str, str], scheme: tuple[str, Any]
) -> Callable[[], Tensor]:
    def value() -> Tensor:
        from compressed_tensors.compressors import BaseCompressor  # pyright: ignore[reportMissingImports]

        kind, group = scheme
        held = {part: checkpoint.load(name) for part, name in stored.items()}
        where = stored.get("weight_packed", stored.get("weight"))
        if "weight_scale" not in held or where is None:
            raise _lacking(checkpoint, stored)
        if "weight_packed" in held:
            _check_width(where, held, group.weights.num_bits)
        # In float32 rather than in the dtype of the scales, which would round once more.
        held["weight_scale"] = held["weight_scale"].float()
        compressor: Any = BaseCompressor.get_value_from_registry(kind)
        try:
            weight = compressor.decompress(held, group)["weight"]
        except (KeyError, RuntimeError, ValueError, AssertionError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"compressed-tensors cannot decompress {where!r} of '{checkpoint.path}' ({line}): "
                "download it again, or install the version that wrote it"
            ) from error
        return weight.to(torch.float32)

    return value


def _lacking(checkpoint: Checkpoint, stored: Mapping[str, str]) -> CheckpointError:
    first = next(iter(stored.values()))
    return CheckpointError(
        f"'{checkpoint.path}' stores {first!r} without the weight or without its weight_scale: "
        "download or save it again"
    )


def _check_width(name: str, held: Mapping[str, Tensor], bits: int) -> None:
    """Older versions packed 3, 5, 6 and 7 bits in another way, which none tells apart but this."""
    shape = held["weight_shape"].tolist() if "weight_shape" in held else []
    width = math.ceil(shape[-1] * bits / 32) if shape else -1
    if held["weight_packed"].shape[-1] != width:
        raise CheckpointError(
            f"{name!r} is {list(held['weight_packed'].shape)}, packed from {shape or 'no shape'} "
            f"in {bits} bits, expected {width} columns: it was packed by another version of "
            "compressed-tensors; dequantise it with that one"
        )
