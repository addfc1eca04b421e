"""Tiny checkpoints made by hand, and what the tests look at on disk."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hcnr.checkpoint import output_directory

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8}


def weights(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    tensors = {"model.embed_tokens.weight": normal(8, 4), "lm_head.weight": normal(8, 4)}
    for layer in range(3):
        for matrix, shape in {"q_proj": (6, 4), "down_proj": (4, 11)}.items():
            tensors[f"model.layers.{layer}.{matrix}.weight"] = normal(*shape)
    return tensors


def targets() -> list[str]:
    return [name for name in weights() if "_proj" in name]


def save(
    directory: Path,
    tensors: Mapping[str, torch.Tensor] | None = None,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint; with several shards, tensors are dealt out like cards."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = weights() if tensors is None else tensors
    (directory / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors", {"format": "pt"})
        return directory
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    weight_map = {name: files[i % shards] for i, name in enumerate(tensors)}
    for file in files:
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        save_file(part, directory / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return directory


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too, with its bytes."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def raw_file(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write(out: Path, content: str = "new", **options: object) -> None:
    with output_directory(out, **options) as work:  # type: ignore[arg-type]
        (work / "config.json").write_text(content)
        (work / "sub").mkdir()
        (work / "sub" / "b").write_text(content)


def written(content: str = "new") -> dict[str, bytes]:
    return {"config.json": content.encode(), "sub/b": content.encode()}


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def leftovers(tmp_path: Path) -> None:
    (tmp_path / ".out.hcnr-lock").write_text("")
    (tmp_path / ".out.hcnr-0123abcd" / "sub").mkdir(parents=True)
    (tmp_path / ".out.hcnr-0123abcd" / "sub" / "a").write_text("half")
