"""The smallest task weight that keeps the task, by its loss on samples held back from measuring."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from hcnr import ranks
from hcnr.errors import ConfigError, DataError

SMALLEST, LARGEST = 1e-3, 1e4
"""Range of mu; both data sets' curvatures are divided by their mean diagonal, so 1 weighs alike."""
REFINEMENTS = 3
"""Halvings of the last decade on a log scale: within a factor of 10^(1/8) = 1.33."""
MOST_TRIES = 1 + 4 + REFINEMENTS
MOST_FORECASTS = 5
"""Tries of a search with a forecast."""
_AIM, _NEAR, _CLOSE = 0.9, 0.5, 1.15
"""Share of the allowed loss that is aimed at, share at which a search stops, and the factor within
which two weights are alike."""


@dataclass(frozen=True)
class Tried:
    """One task weight of a search.

    Attributes:
        task_weight: mu.
        retention: percent kept of fine-tuning's gain in held-back task likelihood; minus infinity
            for a model that cannot be asked.
        kept: whether that is enough.
    """

    task_weight: float
    retention: float
    kept: bool

    def as_dict(self) -> dict[str, float | bool | None]:
        """Plain values for JSON, where infinity is None."""
        retention = self.retention if math.isfinite(self.retention) else None
        return {"task_weight": self.task_weight, "retention": retention, "kept": self.kept}


def retention_of(loss: float, base: float, tuned: float) -> float:
    """Percent kept of what fine-tuning gained: `100 (L_base - L) / (L_base - L_tuned)`.

    Args:
        loss: mean loss L of the model on the task samples.
        base: of the base model.
        tuned: of the tuned model.

    Raises:
        DataError: fine-tuning gained nothing on these samples.
    """
    if not base > tuned:
        raise DataError(
            f"fine-tuning did not lower the loss on the task samples held back ({base:.4g} at "
            f"base, {tuned:.4g} at tuned), so there is no gain to keep; pass samples of the task "
            "that tuned was trained for, or give what is searched (--task-weight, --coefficient) "
            "a number"
        )
    return 100 * (base - loss) / (base - tuned)


def forecast_task_weight(
    retention: Callable[[float], float],
    max_task_drop_percent: float,
    lost: Callable[[float], float],
) -> tuple[float, list[Tried]]:
    """The same with a forecast, in few tries: its shape is trusted, its size is not.

    The forecast's weight for what may be lost is tried; what it loses calibrates the forecast for
    the next try, until a weight that is kept loses nearly as much as it may.

    Args:
        retention: makes the model of a task weight and says what it keeps, in percent.
        max_task_drop_percent: percent that may be lost.
        lost: forecast of what a weight loses, in percent; falls with mu.

    Returns:
        mu, and everything tried, in order.

    Raises:
        ConfigError: even the largest mu loses more.
    """
    tried: list[Tried] = []
    scale = 1.0
    for _ in range(MOST_FORECASTS):
        high = min((one.task_weight for one in tried if one.kept), default=LARGEST)
        low = max((one.task_weight for one in tried if not one.kept), default=SMALLEST)
        weight = _solve(lost, _AIM * max_task_drop_percent / scale, low, high)
        if high < LARGEST and weight > high / _CLOSE:
            break
        if low > SMALLEST and weight < low * _CLOSE:
            # The forecast says what was just seen to be wrong; go half of the way instead.
            weight = float(f"{(low * high) ** 0.5:.6g}")
        # Several processes try one weight, whatever the last digits of their forecasts.
        weight = ranks.decided("task weight", weight)
        kept_percent = retention(weight)
        tried.append(Tried(weight, kept_percent, kept_percent >= 100 - max_task_drop_percent))
        dropped, expected = 100 - kept_percent, lost(weight)
        if tried[-1].kept and dropped >= _NEAR * max_task_drop_percent:
            break
        # A model that gained, or that cannot be asked, calibrates nothing: a decade further then.
        sound = math.isfinite(dropped) and dropped > 0 and expected > 0
        scale = dropped / expected if sound else scale * (10 if dropped > 0 else 0.1)
    kept = [one.task_weight for one in tried if one.kept]
    if kept:
        return min(kept), tried
    weight, more = search_task_weight(retention, max_task_drop_percent)
    return weight, [*tried, *more]


def _solve(lost: Callable[[float], float], allowed: float, low: float, high: float) -> float:
    """The weight between two at which a falling function is `allowed`, to six digits."""
    if lost(low) <= allowed:
        return low
    if lost(high) >= allowed:
        return high
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if lost(middle) > allowed else (low, middle)
    return float(f"{high:.6g}")


def search_task_weight(
    retention: Callable[[float], float], max_task_drop_percent: float
) -> tuple[float, list[Tried]]:
    """Find the smallest mu whose retention is at least `100 - max_task_drop_percent`.

    By decades from 1, down while the task is kept or up until it is, then by halving the last
    decade. Retention is taken to rise with mu there.

    Args:
        retention: makes the model of a task weight and says what it keeps, in percent.
        max_task_drop_percent: percent that may be lost.

    Returns:
        mu, and everything tried, in order.

    Raises:
        ConfigError: even the largest mu loses more.
    """
    tried: list[Tried] = []

    def keeps(weight: float) -> bool:
        kept_percent = retention(weight)
        tried.append(Tried(weight, kept_percent, kept_percent >= 100 - max_task_drop_percent))
        return tried[-1].kept

    low, high = 1.0, 1.0
    if keeps(1.0):
        while low > SMALLEST and keeps(low / 10):
            low /= 10
        high = low
        low /= 10
        if high <= SMALLEST:
            return high, tried
    else:
        while not keeps(high := low * 10):
            low = high
            if low >= LARGEST:
                best = max(tried, key=lambda one: one.retention)
                raise ConfigError(
                    f"no task weight up to {LARGEST:g} keeps {100 - max_task_drop_percent:g} % of "
                    f"what fine-tuning gained on the held-back task samples, the best is "
                    f"{best.retention:.1f} % at {best.task_weight:g}; allow more with "
                    "--max-task-drop-percent, or take shorter steps with --step-size"
                )
    for _ in range(REFINEMENTS):
        middle = float(f"{(low * high) ** 0.5:.6g}")
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high, tried
