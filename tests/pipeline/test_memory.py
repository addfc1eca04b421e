"""What a plan says of memory, beside the memory that a whole run takes in a process of its own."""

import random
import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from families import perturbed
from hcnr.config import RestoreConfig
from hcnr.plan import plan_run
from pairs import tokenizer, write_jsonl

TOKENS, RESPONSES = 256, 127
SHAPE: dict[str, Any] = {
    "vocab_size": 4000,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": TOKENS,
}
MODELS = {
    "dense": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=768)),
    "experts": lambda: MixtralForCausalLM(
        MixtralConfig(**SHAPE, intermediate_size=256, num_local_experts=8)
    ),
}
CODE = """
import resource, sys
import torch
import hcnr
torch.set_num_threads(1)
base, tuned, honesty, task, out, token_budget = sys.argv[1:]
config = hcnr.RestoreConfig(samples=16, token_budget=int(token_budget), task_weight=3.0)
hcnr.restore(base, tuned, honesty, task, out, config=config)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def words(generator, count):
    return " ".join(f"w{generator.randrange(60)}" for _ in range(count))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB on Linux")
@pytest.mark.parametrize("kind", MODELS)
def test_the_planned_peak_is_within_half_of_the_measured_one(tmp_path, kind):
    torch.manual_seed(0)
    model = MODELS[kind]()
    for name, own in (("base", model), ("tuned", perturbed(model, scale=0.002))):
        own.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    generator = random.Random(0)
    for name in ("honesty", "task"):
        sample = {"prompt": words(generator, 128), "response": words(generator, 126)}
        write_jsonl(tmp_path / f"{name}.jsonl", [sample] * 16)
    token_budget = 4096
    config = RestoreConfig(samples=16, token_budget=token_budget, task_weight=3.0)
    plan = plan_run(
        tmp_path / "base", tmp_path / "tuned", config,
        tokens_per_sample=TOKENS, response_tokens=RESPONSES,
    )  # fmt: skip
    names = ("base", "tuned", "honesty.jsonl", "task.jsonl", "out")
    found = subprocess.run(
        [sys.executable, "-c", CODE, *(str(tmp_path / name) for name in names), str(token_budget)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    measured = 1024 * int(found.stdout.split()[-1])
    assert measured > 1.5 * plan.memory.libraries, "too small a model to tell"
    assert measured / 1.5 < plan.peak < 1.5 * measured, (plan.peak, measured)
