"""What an evaluation says about using the restored model, read leniently from its file."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hcnr.choosing.front import Gain
from hcnr.choosing.front import Scores as Point
from hcnr.choosing.recommendation import MAX_ACCURACY_DROP, Decision, Evidence, Rival, decide, weigh
from hcnr.record.values import (
    interval,
    mapping,
    mappings,
    number,
    renamed,
)
from hcnr.report.results import ModelScores


def decision_of(
    data: Mapping[str, Any],
    after: ModelScores,
    before: ModelScores | None,
    difference: Mapping[str, Any],
) -> Decision:
    """Decide by the numbers of `metrics.json`.

    Args:
        data: the file. Older ones have no `recommendation`; then what is to be beaten has no
            interval.
        after: scores of the restored model.
        before: scores of the tuned one, where it was evaluated.
        difference: how the two differ, as the file has it.
    """
    given = number(renamed(mapping(data.get("settings")), "max_accuracy_drop"))
    limit = MAX_ACCURACY_DROP if given is None else given
    found = _stored(mapping(data.get("recommendation")), limit)
    if found is None:
        found = _compared(data, after, before, limit)
        gain = read_gain(mapping(difference.get("macro")).get("refusal_delta"))
        found = replace(found, gain=gain or found.gain)
    return decide(found)


def read_gain(value: Any) -> Gain | None:
    """A difference of refusal deltas; None for anything else."""
    found = mapping(value)
    points = number(found.get("value"))
    return None if points is None else Gain(points, interval(found.get("ci95")))


def _stored(data: Mapping[str, Any], limit: float) -> Evidence | None:
    """What the evaluation weighed; None where it did not."""
    gain, given = read_gain(data.get("gain")), number(renamed(data, "max_accuracy_drop"))
    if gain is None:
        return None
    other = mapping(data.get("interpolation"))
    coefficient, lead = number(other.get("coefficient")), read_gain(other.get("lead"))
    rival = None
    if coefficient is not None and lead is not None:
        rival = Rival(coefficient, read_gain(other.get("gain")), lead)
    doubt = data.get("doubt")
    return Evidence(
        gain,
        number(data.get("task_drop")),
        limit if given is None else given,
        rival,
        number(data.get("task_step")),
        doubt if isinstance(doubt, str) else None,
    )


def _compared(
    data: Mapping[str, Any], after: ModelScores, before: ModelScores | None, limit: float
) -> Evidence:
    """The same from the numbers of the models and of the curve, without intervals."""
    if before is None:
        return Evidence(None, None, limit)
    curve = [
        (coefficient, _point(row, "refusal_delta", "honesty_f1", "task_accuracy"))
        for row in mappings(data.get("interpolation"))
        # Points that were asked few questions only found the one that was asked all.
        if row.get("complete", True) and (coefficient := number(row.get("coefficient"))) is not None
    ]
    row = mapping(data.get("interpolation_row"))
    if not curve and (coefficient := number(row.get("coefficient"))) is not None:
        curve = [(coefficient, _model(ModelScores.read("interpolation", row)))]
    return weigh(_model(after), _model(before), curve, limit)


def _model(scores: ModelScores) -> Point:
    numbers = {"delta": scores.mean("refusal_delta"), "f1": scores.mean("f1")}
    return _point({**numbers, "task": scores.task_accuracy}, "delta", "f1", "task")


def _point(entry: Mapping[str, Any], delta: str, f1: str, task: str) -> Point:
    def read(key: str) -> float:
        value = number(entry.get(key))
        return math.nan if value is None else value

    return Point(read(f1), read(delta), read(task))
