"""A sweep over one restoration of the same pair, evaluation aside."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hcnr
from families import perturbed
from hcnr.choosing.front import Scores
from hcnr.search.grid import Grid
from hcnr.search.sweep import sweep
from pairs import tokenizer

Race = Callable[..., dict[str, float]]
PROMPT, RESPONSE, SAMPLES = 48, 16, 128
"""Tokens of a short question and its answer; the samples of a restoration's defaults."""

LIMIT, PROMISED = 1.25, ("25 configurations",)
"""Of one restoration's seconds; the other grid is timed beside one with `balanced`."""

PAPER = tuple(step / 10 for step in range(3, 8))
GRIDS = {
    # The ratios around the paper's, with its compensation.
    "25 configurations": (Grid(PAPER, (0.2, 0.3, 0.4, 0.5, 0.6), ("sum",)), "sum"),
    "the default 42": (Grid(), "balanced"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two blocks of hidden 512."""
    root = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=512, intermediate_size=1376, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=8, vocab_size=67, max_position_embeddings=256,
        )
    )  # fmt: skip
    for name, model in (("base", base), ("tuned", perturbed(base, scale=0.002))):
        model.save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)
    return {"base": root / "base", "tuned": root / "tuned",
            "honesty": samples(0), "task": samples(1)}  # fmt: skip


def samples(seed: int) -> list[dict[str, str]]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 64, (SAMPLES, PROMPT + RESPONSE), generator=generator).tolist()
    lines = [[f"w{word}" for word in line] for line in words]
    return [
        {"prompt": " ".join(line[:PROMPT]), "response": " ".join(line[PROMPT:])} for line in lines
    ]


@pytest.mark.parametrize("title", GRIDS)
def test_a_sweep_over_one_restoration(title: str, pair: dict[str, Any], race: Race) -> None:
    grid, kind = GRIDS[title]
    scores = Scores(0.0, 0.0, 0.0)
    config = hcnr.RestoreConfig(task_weight=1.0)
    single = config.replace(compensation=kind)

    def run() -> None:
        result = sweep(**pair, grid=grid, config=config, evaluate=lambda _: scores, coefficients=())
        assert len(result.candidates) == len(grid.configs(config))

    ratios = race(
        f"sweep, {title}",
        {"sweep": run, "one restoration": lambda: hcnr.restore(**pair, config=single)},
        rounds=3,
    )
    # NaN where benchmarking is switched off.
    if title in PROMISED:
        assert not 1 / ratios["one restoration"] > LIMIT
