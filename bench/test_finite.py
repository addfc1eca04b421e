"""Whether a weight is finite, told by its sum, against looking at every value."""

from collections.abc import Callable

import torch

from bench.timing import normal
from hcnr.checkpoint import all_finite


def test_all_finite(race: Callable[..., dict[str, float]], device: torch.device) -> None:
    weight = normal(4608, 1536, device=device, dtype=torch.bfloat16, seed=1)
    assert all_finite(weight)
    for value in (torch.nan, torch.inf):
        broken = weight.clone()
        broken[-1, -1] = value
        assert not all_finite(broken)
    race(
        "a finite weight, 4608 x 1536, bf16",
        {"all_finite": lambda: all_finite(weight), "isfinite": lambda: weight.isfinite().all()},
        rounds=21,
        busy=True,
    )
