"""A grid, and judges of its candidates that need no questions."""

import hashlib
from typing import Any

import torch

from hcnr.choosing.front import Scores
from hcnr.search.grid import Grid

ONE_AXIS = ("none", "sum", "joint", "balanced")
GRID = Grid(
    in_weight=(0.3, 0.7), cross_weight=(0.6, 0.2, 0.4), task_weight=(0.0, 2.0),
    compensation=ONE_AXIS,
)  # fmt: skip


def digest(model: Any) -> str:
    """Of every parameter and buffer, bit for bit."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Judge:
    """Scores that follow from the weights alone, and what it was shown."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[str] = []
        self.fail_at = fail_at

    def __call__(self, model: Any) -> Scores:
        assert not model.training
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        found = digest(model)
        self.seen.append(found)
        f1, delta, task = (int(found[place : place + 4], 16) / 655.36 for place in (0, 4, 8))
        return Scores(f1, delta, task)


def nothing(model: Any) -> Scores:
    raise AssertionError("nothing may be evaluated")
