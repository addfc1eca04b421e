"""What each quantised format stores for a weight, and how it is turned back into numbers."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError, ModelError
from hcnr.models.quantised.scales import scaled

FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)


@dataclass(frozen=True)
class Quantised:
    """The quantised weights of a checkpoint.

    Attributes:
        method: `quant_method` of its `config.json`.
        by: what dequantises, with its version.
        weights: name of a plain weight -> a call that reads and dequantises it, in float32.
        parts: names of all stored tensors that these weights are made of.
    """

    method: str
    by: str
    weights: Mapping[str, Callable[[], Tensor]]
    parts: frozenset[str]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a configuration says of quantisation; older compressed-tensors have a key of their own.

    Returns:
        A dictionary with `quant_method`; None where it says nothing that is known.
    """
    settings = config.get("quantization_config")
    if settings is None and isinstance(older := config.get("compression_config"), dict):
        settings = {"quant_method": "compressed-tensors", **older}
    return (
        settings if isinstance(settings, dict) and settings.get("quant_method") in READERS else None
    )


def read_fp8(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Quantised:
    """FP8 of DeepSeek and of FBGEMM: the float8 number times its scale, by torch.

    `X_scale_inv` (DeepSeek's, which multiplies in spite of its name) or `X_scale` stands beside
    `X`: one of a tensor, of a row, or of blocks of `weight_block_size`.
    """
    method = str(settings["quant_method"])
    block = settings.get("weight_block_size") if method == "fp8" else None
    weights, parts = {}, set()
    for name, info in checkpoint.tensors.items():
        if info.dtype not in FLOAT8:
            continue
        ends = [end for end in ("_scale_inv", "_scale") if f"{name}{end}" in checkpoint.tensors]
        if len(ends) != 1:
            raise CheckpointError(
                f"'{checkpoint.path}' stores {name!r} as float8 with {len(ends)} scales, expected "
                f"one, {name}_scale_inv or {name}_scale: download or save it again"
            )
        scale = f"{name}{ends[0]}"
        parts |= {name, scale}
        weights[name] = _scaled(checkpoint, name, scale, block)
    return Quantised(method, f"torch {torch.__version__}", weights, frozenset(parts))


def read_bitsandbytes(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Quantised:
    """4 bits (NF4 and FP4, nested statistics too) and 8 bits, by bitsandbytes."""
    by = _library("bitsandbytes")
    weights, parts = {}, set()
    for name, info in checkpoint.tensors.items():
        state = [other for other in checkpoint.tensors if other.startswith(f"{name}.")]
        scale, layout = (f"{name.removesuffix('weight')}{end}" for end in ("SCB", "weight_format"))
        if info.dtype == torch.uint8 and any(".quant_state." in other for other in state):
            parts |= {name, *state}
            weights[name] = _four_bits(checkpoint, name, state)
        elif info.dtype == torch.int8 and scale in checkpoint.tensors:
            parts |= {name, scale}
            if layout in checkpoint.tensors:
                parts.add(layout)
                if checkpoint.load(layout).any():
                    raise CheckpointError(
                        f"'{checkpoint.path}' stores {name!r} in a layout of one kind of GPU, and "
                        "rows were expected: save it again with a newer bitsandbytes"
                    )
            weights[name] = _eight_bits(checkpoint, name, scale)
    return Quantised(str(settings["quant_method"]), by, weights, frozenset(parts))


def _read_compressed(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Quantised:
    from hcnr.models.quantised.compressed import read_compressed

    by = _library("compressed-tensors")
    weights, parts = read_compressed(checkpoint, settings)
    return Quantised("compressed-tensors", by, weights, parts)


READERS: dict[str, Callable[[Checkpoint, Mapping[str, Any]], Quantised]] = {
    "fp8": read_fp8,
    "fbgemm_fp8": read_fp8,
    "bitsandbytes": read_bitsandbytes,
    "compressed-tensors": _read_compressed,
}


def _library(name: str) -> str:
    """Name and version of an installed package.

    Raises:
        ModelError: it is not installed.
    """
    # A folder of that name in the working directory is found too, without an origin.
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModelError(
            f"weights that {name} quantised are dequantised by that package, which is not "
            f"installed; run pip install {name}, or name the weights from before quantisation"
        )
    return f"{name} {importlib.metadata.version(name)}"


def _scaled(checkpoint: Checkpoint, name: str, scale: str, block: Any) -> Callable[[], Tensor]:
    def value() -> Tensor:
        return scaled(name, checkpoint.load(name), checkpoint.load(scale), block)

    return value


def _four_bits(checkpoint: Checkpoint, name: str, state: list[str]) -> Callable[[], Tensor]:
    def value() -> Tensor:
        from bitsandbytes import functional  # pyright: ignore[reportMissingImports]

        held = {other.removeprefix(f"{name}."): checkpoint.load(other) for other in state}
        known = functional.QuantState.from_dict(held, device=torch.device("cpu"))
        # Not the dtype that it computes in, which would round once more.
        known.dtype = torch.float32
        return functional.dequantize_4bit(checkpoint.load(name), known)

    return value


def _eight_bits(checkpoint: Checkpoint, name: str, scale: str) -> Callable[[], Tensor]:
    def value() -> Tensor:
        from bitsandbytes import functional  # pyright: ignore[reportMissingImports]

        return functional.int8_vectorwise_dequant(
            checkpoint.load(name), checkpoint.load(scale).float()
        )

    return value
