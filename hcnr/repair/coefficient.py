"""The search for the largest coefficient of an interpolation that keeps the task."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from hcnr.errors import ConfigError

FINEST = 100
"""Steps between tuned and base: a searched coefficient is a whole number of hundredths."""
MOST_TRIES = math.ceil(math.log2(FINEST + 1))


@dataclass(frozen=True)
class TriedCoefficient:
    """One coefficient of a search.

    Attributes:
        coefficient: c.
        retention: percent kept of fine-tuning's gain in held-back task likelihood; None for a model
            that cannot be asked.
        kept: whether that is enough.
    """

    coefficient: float
    retention: float | None
    kept: bool


def search_coefficient(
    retention: Callable[[float], float], max_task_drop_percent: float
) -> tuple[float, list[TriedCoefficient]]:
    """Find the largest c, to a hundredth, that keeps `100 - max_task_drop_percent` percent.

    By halving; retention is taken to fall with c from 100 percent at tuned.

    Args:
        retention: makes the model of a coefficient and says what it keeps, in percent.
        max_task_drop_percent: percent that may be lost.

    Returns:
        c, and everything tried, in order.

    Raises:
        ConfigError: even the smallest c loses more.
    """
    tried: list[TriedCoefficient] = []
    low, high = 0, FINEST + 1
    while high - low > 1:
        middle = (low + high) // 2
        kept_percent = retention(middle / FINEST)
        finite_percent = kept_percent if math.isfinite(kept_percent) else None
        tried.append(
            TriedCoefficient(
                middle / FINEST, finite_percent, kept_percent >= 100 - max_task_drop_percent
            )
        )
        low, high = (middle, high) if tried[-1].kept else (low, middle)
    if low == 0:
        last = tried[-1].retention
        raise ConfigError(
            f"no coefficient from {1 / FINEST:g} on keeps {100 - max_task_drop_percent:g} % of "
            "what fine-tuning gained on the held-back task samples"
            f"{'' if last is None else f', {1 / FINEST:g} keeps {last:.1f} %'}; allow more with "
            "--max-task-drop-percent, or give --coefficient a number"
        )
    return low / FINEST, tried
