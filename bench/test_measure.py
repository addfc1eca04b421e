"""The scoring pass against bare forward + backward, and against what else computes such scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.passes import (
    Race,
    bare,
    batch_one_loop,
    kronfluence_diagonal,
    llama,
    random_samples,
    scoring,
)
from hcnr_kernels.checks import Axis

SAMPLES, LENGTH, RESPONSE, BUDGET = 32, 128, 32, 2048
Timed = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def passes() -> Race:
    """Four blocks of hidden 512: the shape whose ratios performance targets name."""
    model = llama(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.float32,
        hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=1024, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return Race(model, random_samples([LENGTH] * SAMPLES, RESPONSE, 1024), BUDGET)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_scoring_over_bare_passes(passes: Race, axis: Axis, race: Timed) -> None:
    exact = batch_one_loop(passes, axis)
    for name, found in scoring(passes, axis).items():
        torch.testing.assert_close(found, exact[name].cpu(), rtol=1e-4, atol=0)
    contenders: dict[str, Callable[[], Any]] = {
        f"score ({axis})": lambda: scoring(passes, axis),
        "bare forward + backward": lambda: bare(passes),
    }
    if axis == "output":
        contenders["batch-1 loop"] = lambda: batch_one_loop(passes, axis)
    race("scoring pass", contenders, rounds=7, busy=True)


@pytest.mark.filterwarnings("ignore")  # the rival's own
def test_scoring_against_kronfluence(passes: Race, race: Timed, tmp_path: Path) -> None:
    """Element-wise diagonal factors of the same matrices, its nearest offer."""
    rival = kronfluence_diagonal(passes, RESPONSE, tmp_path)
    if rival is None:
        pytest.skip("pip install kronfluence to time against it")
    race(
        "scoring pass",
        {"score (output)": lambda: scoring(passes, "output"), "kronfluence diagonal": rival},
        rounds=5,
        busy=True,
    )
