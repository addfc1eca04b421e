"""`python -m bench.memory`: the peak that `hcnr plan` tells beside the one that a run takes.

Every restoration runs in a process of its own, on a CPU, on random models of 25 to 130 MB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from bench.pairs import CHANGE, samples, tokenizer
from hcnr.config import RestoreConfig
from hcnr.plan import plan_run

LENGTH, RESPONSE = 256, 128
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"vocab_size": 4000, "hidden_size": 256, "num_hidden_layers": 4},
    "medium": {"vocab_size": 8000, "hidden_size": 512, "num_hidden_layers": 8},
}
MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": lambda hidden_size, **k: LlamaForCausalLM(
        LlamaConfig(**HEADS, hidden_size=hidden_size, intermediate_size=3 * hidden_size, **k)
    ),
    "mixtral": lambda hidden_size, **k: MixtralForCausalLM(
        MixtralConfig(
            **HEADS, hidden_size=hidden_size, intermediate_size=hidden_size,
            num_local_experts=8, **k,
        )
    ),
    "gemma3": lambda hidden_size, **k: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **HEADS, hidden_size=hidden_size, intermediate_size=3 * hidden_size,
            head_dim=hidden_size // 4, **k,
        )
    ),
    "gpt2": lambda hidden_size, num_hidden_layers, **k: GPT2LMHeadModel(
        GPT2Config(n_embd=hidden_size, n_layer=num_hidden_layers, n_head=4, n_positions=LENGTH, **k)
    ),
}  # fmt: skip
GIVEN: dict[str, Any] = {"samples": 16, "token_budget": 4096, "task_weight": 3.0}


class Case(NamedTuple):
    """A restoration.

    Attributes:
        model: of `MODELS`.
        settings: beside `GIVEN`.
        size: of `SIZES`.
        vocabulary: in place of the size's.
        preset: of the configuration.
    """

    model: str
    settings: dict[str, Any] | None = None
    size: str = "medium"
    vocabulary: int | None = None
    preset: str | None = None

    @property
    def config(self) -> RestoreConfig:
        settings = {**GIVEN, **(self.settings or {})}
        if self.preset is None:
            return RestoreConfig(**settings)
        del settings["task_weight"]
        return RestoreConfig.from_preset(self.preset, **settings)


CASES = {
    "llama": Case("llama"),
    "llama, a sample at a time": Case("llama", {"token_budget": LENGTH}),
    "llama, recomputed": Case("llama", {"gradient_checkpointing": True}),
    "llama, --preset paper": Case("llama", preset="paper"),
    "llama, natural": Case("llama", {"compensation": "natural", "steps": 1}),
    "llama, blocks of 64": Case("llama", {"block_size": 64}),
    "gemma3, 100,000 tokens": Case("gemma3", size="small", vocabulary=100_000),
    "mixtral": Case("mixtral"),
    "gpt2": Case("gpt2"),
}
CODE = """
import json, resource, sys
import torch
import hcnr
torch.set_num_threads(1)
*places, settings = sys.argv[1:]
hcnr.restore(*places, config=hcnr.RestoreConfig(**json.loads(settings)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Peaks(NamedTuple):
    """Most bytes at once: as planned, as measured (resident, files that are mapped too)."""

    planned: int
    measured: int
    libraries: int


def peaks(case: Case, root: Path) -> Peaks:
    """Write a pair below `root`, plan its restoration and run it; Linux alone."""
    sizes = dict(SIZES[case.size])
    sizes["vocab_size"] = case.vocabulary or sizes["vocab_size"]
    torch.manual_seed(0)
    model = MODELS[case.model](**sizes)
    for role in ("base", "tuned"):
        model.save_pretrained(root / role)
        tokenizer().save_pretrained(root / role)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=CHANGE)
    for seed, name in enumerate(("honesty.jsonl", "task.jsonl")):
        lines = samples(GIVEN["samples"], LENGTH, RESPONSE, seed)
        (root / name).write_text("".join(json.dumps(one) + "\n" for one in lines))
    config = case.config
    plan = plan_run(
        root / "base", root / "tuned", config,
        tokens_per_sample=LENGTH, response_tokens=RESPONSE,
    )  # fmt: skip
    places = (root / name for name in ("base", "tuned", "honesty.jsonl", "task.jsonl", "out"))
    ran = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, places), json.dumps(config.model_dump(mode="json"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Peaks(plan.peak, 1024 * int(ran.stdout.split()[-1]), plan.memory.libraries)


def main() -> None:
    """Print a row for every case, and the smallest and the largest ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--only", help="cases whose name holds this")
    only = parser.parse_args().only or ""
    print(f"{'restoration':28} {'planned':>9} {'measured':>9} {'ratio':>6}")
    ratios = []
    for name, case in CASES.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="hcnr-bench-") as root:
            peak = peaks(case, Path(root))
        ratios.append(peak.planned / peak.measured)
        planned, measured = (f"{value / 1e6:6.0f} MB" for value in peak[:2])
        print(f"{name:28} {planned:>9} {measured:>9} {ratios[-1]:6.2f}", flush=True)
    print(f"planned over measured: {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
