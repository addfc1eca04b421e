"""A pair of tiny checkpoints on disk with a tokenizer and data, as a user would have them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

import hcnr
from families import VOCABULARY, make, perturbed
from hcnr.checkpoint import Checkpoint

# Nearly all tests are about neurons, so the kind that chooses some is their default. What they
# compare lies on the CPU, on a machine with a GPU too; tests of a GPU name it.
SMALL: dict[str, Any] = {
    "device": "cpu",
    "samples": 8,
    "token_budget": 64,
    "compensation": "sum",
    "cross_weight_ratio": 0.4,
    "task_weight": 1.0,
}
HONESTY = [{"prompt": f"w{i} w{i + 7} w{i + 1}", "response": f"w{i % 5} w{i % 3}"}
           for i in range(9)]  # fmt: skip
TASK = [{"prompt": f"w{2 * i} w{i}", "response": f"w{i + 20}"} for i in range(8)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level: `w0` .. `w63` are tokens 3 .. 66."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    words |= {f"w{i}": i + 3 for i in range(VOCABULARY - 3)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_pair(root: Path, *, family: str = "llama", shard_size: str = "20KB") -> dict[str, Path]:
    """Write base/, tuned/, honesty.jsonl and task.jsonl below `root`; return their paths."""
    base = make(family)
    tuned = perturbed(base)
    for name, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(root / name, max_shard_size=shard_size)
        tokenizer().save_pretrained(root / name)
    return {
        "base": root / "base",
        "tuned": root / "tuned",
        "honesty": write_jsonl(root / "honesty.jsonl", HONESTY),
        "task": write_jsonl(root / "task.jsonl", TASK),
    }


def config(**settings: Any) -> hcnr.RestoreConfig:
    """Settings for so small a pair, with some changed."""
    return hcnr.RestoreConfig(**{**SMALL, **settings})


def hashes(directory: Path, pattern: str = "*.safetensors") -> dict[str, str]:
    """SHA-256 of the files of a directory, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob(pattern))
    }


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by its stored name."""
    checkpoint = Checkpoint.open(directory)
    return {name: checkpoint.load(name) for name in checkpoint.tensors}


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer byte by byte, under all of its names."""
    return {
        name: value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
    }
