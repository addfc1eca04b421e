"""Plain values out of JSON files that may hold anything: the value, or None where it is another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hcnr.record.tables import Interval


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


_FORMER = {"max_task_drop_percent": "max_task_drop", "max_accuracy_drop": "max_task_drop"}


def renamed(data: Mapping[str, Any], key: str) -> Any:
    """What a file holds under a key, or under the one that older versions wrote."""
    return data.get(key, data.get(_FORMER[key]))


def interval(value: Any) -> Interval | None:
    """Two finite numbers, or None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = (number(end) for end in value)
    return None if low is None or high is None else (low, high)


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, or an empty one for anything else."""
    return dict(value) if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list, or an empty list for anything else."""
    return [dict(v) for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """The texts in a list, or an empty list for anything else."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
