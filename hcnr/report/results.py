"""What a sweep and a probe found, read leniently from their files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hcnr.choosing.front import Scores as Point
from hcnr.choosing.front import pareto_front
from hcnr.choosing.recommendation import MAX_ACCURACY_DROP, WORDS, Recommendation, recommend
from hcnr.record.values import (
    mapping,
    mappings,
    number,
    renamed,
)


def probe_blocks(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Blocks of `probe.json` that carry a number."""
    return [e for e in mappings(probe.get("blocks")) if number(e.get("block")) is not None]


@dataclass(frozen=True)
class Trade:
    """Honesty against task of one model: refusal delta in points, accuracy and F1 in percent."""

    delta: float
    task: float
    f1: float | None = None
    entry: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "Trade | None":
        """Read one point of a sweep or of an interpolation; None without delta or accuracy."""
        delta, task = number(entry.get("refusal_delta")), number(entry.get("task_accuracy"))
        f1 = number(entry.get("honesty_f1", entry.get("f1")))
        return None if delta is None or task is None else cls(delta, task, f1, dict(entry))

    @property
    def point(self) -> Point:
        """The same for the functions of `hcnr.choosing`."""
        return Point(math.nan if self.f1 is None else self.f1, self.delta, self.task)


def trades(value: Any) -> list[Trade]:
    """The points of a list that carry both numbers."""
    found = (Trade.read(entry) for entry in mappings(value))
    return [trade for trade in found if trade is not None]


@dataclass(frozen=True)
class Sweep:
    """Honesty against task over many settings.

    Attributes:
        candidates: every setting that was tried; `pareto` and `recommended` in their entries say
            which ones are on the front of delta and task, and which one is the best.
        curve: plain interpolation between tuned and base.
        base: the honest model.
        tuned: the tuned model.
        word: what to do, see `hcnr.choosing.recommendation`; empty where nothing is recommended.
        reason: why.
        ablation: the method with one thing taken away at a time.
        cost_ratio: what all candidates cost, as a multiple of one restoration.
        complete: False where it was interrupted; nothing is recommended then.
    """

    candidates: list[Trade]
    curve: list[Trade]
    base: Trade | None
    tuned: Trade | None
    word: str
    reason: str | None
    ablation: list[Trade]
    cost_ratio: float | None
    complete: bool = True

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "Sweep":
        """Read `sweep.json`.

        Files from before the refusal delta decided have no word. Theirs is told from their numbers,
        which have no intervals.
        """
        complete = data.get("complete") is not False
        candidates, curve = trades(data.get("candidates")), trades(data.get("interpolation"))
        base, tuned = (Trade.read(mapping(data.get(role))) for role in ("base", "tuned"))
        for trade, on_front in zip(
            candidates, pareto_front([trade.point for trade in candidates]), strict=True
        ):
            trade.entry["pareto"] = on_front
        stored = mapping(data.get("recommended"))
        word, reason = stored.get("word"), stored.get("reason")
        if word not in WORDS or not isinstance(reason, str):
            word, reason = "", None
            if tuned is not None and candidates:
                found = _recommended(candidates, curve, base, tuned, data)
                word, reason = found.word, found.reason
                for index, trade in enumerate(candidates):
                    trade.entry["recommended"] = index == found.index
        for trade in candidates:
            trade.entry["recommended"] = complete and bool(trade.entry.get("recommended"))
        return cls(
            candidates=candidates,
            curve=curve,
            base=base,
            tuned=tuned,
            word=word if complete else "",
            reason=reason if complete else None,
            ablation=trades(data.get("ablation")),
            cost_ratio=number(mapping(data.get("cost")).get("ratio")),
            complete=complete,
        )


def _recommended(
    candidates: Sequence[Trade],
    curve: Sequence[Trade],
    base: Trade | None,
    tuned: Trade,
    data: Mapping[str, Any],
) -> Recommendation:
    """What the sweep would recommend today, from the numbers of its file alone."""
    points = [(0.0, tuned.point)] if curve else []
    for trade in curve:
        if (coefficient := number(trade.entry.get("coefficient"))) is not None:
            points.append((coefficient, trade.point))
    if curve and base is not None:
        points.append((1.0, base.point))
    limit = number(renamed(data, "max_accuracy_drop"))
    limit = MAX_ACCURACY_DROP if limit is None else limit
    return recommend([trade.point for trade in candidates], tuned.point, limit, points)
