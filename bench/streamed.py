"""`python -m bench.streamed`: a model whose weights exceed what its process may have.

A random pair is restored three times, each in a process of its own on a CPU, forked by one that
has imported everything: whole without a limit; under the limit with all weights kept, which must
fail; and read block by block under it, which must give the bytes of the first. The limit is
`RLIMIT_DATA` above what is there once all is imported: memory that is no file's. What maps a file
may be resident beyond it; the kernel takes that back.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
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
import json, os, pathlib, resource, sys, traceback
import torch
import hcnr, hcnr.pipeline.restoring, transformers, accelerate, transformers.models.llama
torch.set_num_threads(1)

def bytes_of(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

def restore(limit, places, settings):
    settings = hcnr.RestoreConfig(**settings)
    # Whatever is imported, opened or kept for good on the way is there before the limit is set.
    small = [pathlib.Path(place).parent / "small" / pathlib.Path(place).name for place in places]
    hcnr.restore(*small, config=settings.replace(max_memory=None))
    if limit:
        most = bytes_of("VmData") + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        hcnr.restore(*places, config=settings)
    except (hcnr.errors.HcnrError, MemoryError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""

for limit, places, settings in json.loads(sys.argv[1]):
    end, begin = os.pipe()
    # Forked by one that has imported everything and has no threads: nothing is shared from then on.
    if not os.fork():
        try:
            told = restore(limit, places, settings)
        except BaseException:
            told = traceback.format_exc()
        os.write(begin, json.dumps(told).encode())
        os._exit(0)
    os.close(begin)
    with open(end) as file:
        print(file.read() or '"it was killed"', flush=True)
    os.wait()
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


class Case(NamedTuple):
    """A restoration of a pair.

    Attributes:
        name: of what it writes, below the pair.
        limit: bytes that it may take; 0 for as much as there is.
        settings: beside `SETTINGS`.
    """

    name: str
    limit: int = 0
    settings: Mapping[str, Any] = MappingProxyType({})


def runs(root: Path, *cases: Case, **settings: Any) -> list[Run]:
    """Restore the pair below `root` once a case, one after another, each in its own process."""
    asked = []
    for case in cases:
        config = RestoreConfig(**{**SETTINGS, **settings, **case.settings})
        names = ("base", "tuned", "honesty.jsonl", "task.jsonl", case.name)
        places = [str(root / name) for name in names]
        asked.append([case.limit, places, config.model_dump(mode="json")])
    ran = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(asked)],
        capture_output=True, text=True, check=False,
        # Every matrix gets pages of its own, which go back when it does, as large ones always do.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    errors = [json.loads(line) for line in ran.stdout.splitlines()]
    return [
        Run(error, "" if error else _digest(root / case.name))
        for case, error in zip(cases, errors, strict=True)
    ]


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def three(root: Path, limit: int, **settings: Any) -> list[Run]:
    """Restore whole without a limit; under it with all weights kept, and block by block."""
    return runs(
        root,
        Case("whole"),
        Case("kept", limit, KEPT),
        Case("streamed", limit, {"device_map": "disk"}),
        **settings,
    )


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
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pair(root / SMALL, width=64, blocks=2)
        nbytes = pair(root, width=asked.width, blocks=asked.blocks)
        limit = int(asked.share * nbytes)
        print(f"{nbytes / 1e6:.0f} MB of weights, a limit of {limit / 1e6:.0f} MB")
        whole, kept, streamed = three(root, limit, **own)
        print(f"whole, without a limit: {whole.error or whole.digest}")
        print(f"all kept, under the limit: {kept.error or 'DONE'}")
        print(f"block by block, under the limit: {streamed.error or streamed.digest}")
        if streamed != whole or not kept.error:
            sys.exit("the bytes differ, or the limit holds nothing back")


if __name__ == "__main__":
    main()
