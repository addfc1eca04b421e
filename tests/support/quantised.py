"""Tiny quantised checkpoints, packed here by hand, and in float64 what they mean."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Packed = tuple[dict[str, Tensor], Tensor]
FP8 = torch.float8_e4m3fn


def fp8(block: tuple[int, int] | None, end: str = "_scale_inv", rows: bool = False):
    """Float8 with a scale of each block, of each row, or of the tensor."""

    def pack(weight: Tensor) -> Packed:
        if block is None:
            size = weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()
            scale = (size / 448).float()
            spread = scale.double()
        else:
            down, across = (math.ceil(n / b) for n, b in zip(weight.shape, block, strict=True))
            scale = torch.empty(down, across)
            spread = torch.empty(weight.shape, dtype=torch.float64)
            for i in range(down):
                for j in range(across):
                    at = (slice(i * block[0], (i + 1) * block[0]),
                          slice(j * block[1], (j + 1) * block[1]))  # fmt: skip
                    scale[i, j] = weight[at].abs().max() / 448
                    spread[at] = scale[i, j].double()
        stored = (weight / spread).float().to(FP8)
        return {"weight": stored, f"weight{end}": scale}, stored.double() * spread

    return pack


def integers(bits: int, group: int | None, packed: bool, zero: bool = False):
    """Whole numbers with a scale of each row or group of columns, as compressed-tensors stores."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def words(codes: Tensor) -> Tensor:
        """Whole numbers along the rows, in words of 32 bits from the lowest bits on."""
        per = 32 // bits
        padded = torch.zeros(len(codes), math.ceil(codes.shape[1] / per) * per, dtype=torch.int64)
        padded[:, : codes.shape[1]] = codes - low
        shifts = torch.arange(per) * bits
        value = (padded.view(len(codes), -1, per) << shifts).sum(-1)
        return torch.where(value >= 2**31, value - 2**32, value).to(torch.int32)

    def pack(weight: Tensor) -> Packed:
        rows, columns = weight.shape
        width = group or columns
        parts = weight.view(rows, columns // width, width)
        scale = (parts.abs().amax(-1) / high).bfloat16()
        offset = torch.arange(scale.numel()).view(scale.shape) % 3 - 1 if zero else 0 * scale.long()
        codes = (parts / scale.double()[..., None]).round().long() + offset[..., None]
        codes = codes.clamp(low, high)
        truth = ((codes - offset[..., None]).double() * scale.double()[..., None]).view(rows, -1)
        codes = codes.view(rows, columns)
        held: dict[str, Tensor] = {"weight_scale": scale}
        if packed:
            held["weight_packed"] = words(codes)
            held["weight_shape"] = torch.tensor([rows, columns])
            if zero:
                held["weight_zero_point"] = words(offset.T).T.contiguous()
        else:
            held["weight"] = codes.to(torch.int8)
            if zero:
                held["weight_zero_point"] = offset.to(torch.int8)
        return held, truth

    return pack


def scheme(kind: str, bits: int, strategy: str, **options: Any) -> dict[str, Any]:
    """The `quantization_config` of compressed-tensors, all linear layers alike."""
    weights = {"num_bits": bits, "type": "float" if "float" in kind else "int",
               "strategy": strategy, "symmetric": True, "dynamic": False, **options}  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip


KINDS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Packed]]] = {
    "fp8-blocks": ({"quant_method": "fp8", "weight_block_size": [16, 24]}, fp8((16, 24))),
    "fp8-tensor": ({"quant_method": "fp8", "weight_block_size": None}, fp8(None)),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, fp8(None, "_scale", rows=True)),
    "ct-float": (scheme("float-quantized", 8, "channel"), fp8(None, "_scale", rows=True)),
    "ct-int8": (scheme("int-quantized", 8, "channel"), integers(8, None, False)),
    "ct-int8-zero": (
        scheme("int-quantized", 8, "channel", symmetric=False), integers(8, None, False, True)
    ),
    "ct-pack4": (scheme("pack-quantized", 4, "group", group_size=8), integers(4, 8, True)),
    "ct-pack4-zero": (
        scheme("pack-quantized", 4, "group", group_size=8, symmetric=False),
        integers(4, 8, True, True),
    ),
    "ct-pack8": (scheme("pack-quantized", 8, "channel"), integers(8, None, True)),
}  # fmt: skip


def write_quantised(
    source: Path, place: Path, kind: str, *, dtype: torch.dtype = torch.bfloat16,
    pack: Callable[[Tensor], Packed] | None = None, settings: dict[str, Any] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Copy a checkpoint with the linear layers of its blocks quantised, in two files.

    Returns:
        By name what every tensor means: the quantised ones in float64, the others as stored.
    """
    if pack is None or settings is None:
        settings, pack = KINDS[kind]
    copied = shutil.ignore_patterns("*.safetensors*")
    shutil.copytree(source, place, ignore=copied)
    config = json.loads((source / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    config["quantization_config"] = settings
    (place / "config.json").write_text(json.dumps(config))
    weights = {n: t for f in sorted(source.glob("*.safetensors")) for n, t in load_file(f).items()}
    stored: dict[str, Tensor] = {}
    truth: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            parts, truth[name] = pack(weight.double())
            stored |= {f"{name.removesuffix('weight')}{part}": one for part, one in parts.items()}
        else:
            stored[name] = truth[name] = weight.to(dtype)
    # A scale need not lie in the file of its weight.
    names = [[n for n in stored if "scale" in n], [n for n in stored if "scale" not in n]]
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, some in zip(files, names, strict=True):
        save_file({name: stored[name] for name in some}, place / file, {"format": "pt"})
    places = {n: file for file, some in zip(files, names, strict=True) for n in some}
    (place / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return truth


def write_plain(source: Path, place: Path, truth: dict[str, Tensor], dtype: torch.dtype) -> Path:
    """The checkpoint with what the quantised one means, rounded once, written by hand."""
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((source / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (place / "config.json").write_text(json.dumps(config))
    rounded = {name: one.float().to(dtype) if one.dtype == torch.float64 else one
               for name, one in truth.items()}  # fmt: skip
    save_file(rounded, place / "model.safetensors", {"format": "pt"})
    return place
