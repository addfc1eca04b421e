"""`python -m bench.streamed`: a model whose weights exceed what its process may have.

A random pair is restored three times, each in a process of its own on a CPU: whole without a limit;
under the limit with all weights kept, which must fail; and read block by block under it, which must
give the bytes of the first. The limit is `RLIMIT_DATA` above what is there once all is imported:
memory that is no file's. What maps a file may be resident beyond it; the kernel takes that back.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.pairs import CHANGE, samples, tokenizer
from hcnr.config import RestoreConfig
from hcnr.curvature.groups import GIB, one_axis_bytes

LENGTH, RESPONSE, COUNT = 16, 8, 4
SETTINGS: dict[str, Any] = {
    "device": "cpu", "samples": COUNT, "token_budget": 2 * LENGTH, "compensation": "joint",
    "axis": "input", "cross_weight_ratio": 0.05,
}  # fmt: skip
SMALL = "small"
KEPT: dict[str, Any] = {"device_map": "auto", "max_memory": 1024}
"""Everything stays, and no file is mapped, which would count too."""
CODE = """
import json, pathlib, resource, sys
import torch
import hcnr, hcnr.pipeline.restoring, transformers, accelerate
torch.set_num_threads(1)

def bytes_of(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

limit, *places, settings = sys.argv[1:]
settings = hcnr.RestoreConfig(**json.loads(settings))
# Whatever is imported, opened or kept for good on the way is there before the limit is set.
small = [pathlib.Path(place).parent / "small" / pathlib.Path(place).name for place in places]
hcnr.restore(*small, config=settings.replace(max_memory=None))
if int(limit):
    most = bytes_of("VmData") + int(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
try:
    hcnr.restore(*places, config=settings)
except (hcnr.errors.HcnrError, MemoryError, RuntimeError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(bytes_of("VmHWM"))
"""


class Run(NamedTuple):
    """A restoration in a process of its own.

    Attributes:
        error: what it ended with; empty where it came to its end.
        digest: SHA-256 of what it wrote.
    """

    error: str
    digest: str


def pair(root: Path, *, width: int, blocks: int) -> int:
    """Write a pair and its data below `root`; bytes of one model's weights."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=width, intermediate_size=3 * width,
            num_hidden_layers=blocks, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=LENGTH,
        )
    )  # fmt: skip
    for role in ("base", "tuned"):
        model.save_pretrained(root / role, max_shard_size="200MB")
        tokenizer().save_pretrained(root / role)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=CHANGE)
    for seed, name in enumerate(("honesty.jsonl", "task.jsonl")):
        lines = samples(COUNT, LENGTH, RESPONSE, seed)
        (root / name).write_text("".join(json.dumps(one) + "\n" for one in lines))
    return sum(parameter.nbytes for parameter in model.parameters())


def budget(width: int) -> float:
    """GiB that hold the curvature of the widest matrix of such a model, and little more."""
    shape = (width, 3 * width)
    return 1.01 * one_axis_bytes([shape], "input", 1) / GIB


def run(root: Path, name: str, limit: int = 0, **settings: Any) -> Run:
    """Restore the pair below `root` into `root/name`, within `limit` bytes (0: without one)."""
    places = [root / one for one in ("base", "tuned", "honesty.jsonl", "task.jsonl", name)]
    config = RestoreConfig(**{**SETTINGS, **settings}).model_dump(mode="json")
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(limit), *map(str, places), json.dumps(config)],
        capture_output=True, text=True, check=False,
        # Every matrix gets pages of its own, which go back when it does, as large ones always do.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    digest = hashlib.sha256()
    for file in sorted((root / name).glob("*.safetensors")):
        digest.update(file.read_bytes())
    error = ran.stderr.strip().splitlines()[-1] if ran.returncode else ""
    return Run(error, "" if error else digest.hexdigest())


def main() -> None:
    """Print what the three restorations ended with."""
    parser = argparse.ArgumentParser(prog="python -m bench.streamed", description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--share", type=float, default=0.5, help="the limit, of a model's weights")
    parser.add_argument("--setting", action="append", default=[], help="KEY=JSON of a run")
    asked = parser.parse_args()
    own: dict[str, Any] = {"memory_budget": budget(asked.width)}
    own |= {key: json.loads(value) for key, value in (one.split("=", 1) for one in asked.setting)}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        pair(root / SMALL, width=64, blocks=2)
        nbytes = pair(root, width=asked.width, blocks=asked.blocks)
        limit = int(asked.share * nbytes)
        print(f"{nbytes / 1e6:.0f} MB of weights, a limit of {limit / 1e6:.0f} MB")
        whole = run(root, "whole", **own)
        print(f"whole, without a limit: {whole.error or whole.digest}")
        kept = run(root, "kept", limit, **{**KEPT, **own})
        print(f"all kept, under the limit: {kept.error or 'DONE'}")
        streamed = run(root, "streamed", limit, device_map="disk", **own)
        print(f"block by block, under the limit: {streamed.error or streamed.digest}")
        if streamed != whole or not kept.error:
            sys.exit("the bytes differ, or the limit holds nothing back")


if __name__ == "__main__":
    main()
