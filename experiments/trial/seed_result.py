"""What one seed of a trial found: kept in a file, and all that the tables are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.trial.candidate_specs import SHORT, brief
from experiments.trial.metrics import Metrics, read_metrics
from experiments.trial.selection import Scored, Selected, on_front
from experiments.trial.text_data import Split

EDGE = (
    "At the edge: the smallest or the largest of at least three values that were tried, so that a "
    "wider grid might do better; settings with only two values are not marked."
)

References = dict[str, dict[Split, Metrics]]
"""Metrics of `base`, `tuned` and `refuse all` on both splits."""


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """What one method did with one seed.

    Attributes:
        candidates: All of its grid, on the validation questions.
        selections: Level of retention -> what it selected; None where no candidate qualified.
    """

    candidates: list[Scored]
    selections: dict[float, Selected | None]

    def repeats(self, level: float) -> bool:
        """Whether it selects at a level what it selects at a higher one."""
        selected = self.selections[level]
        return selected is not None and any(
            other is not None
            and higher > level
            and other.candidate.settings == selected.candidate.settings
            for higher, other in self.selections.items()
        )

    def settings(self, level: float) -> str:
        """What was chosen, and which of its numbers are the smallest or largest that were tried."""
        selected = self.selections[level]
        if selected is None:
            return "none qualified"
        if self.repeats(level):
            return "as above"
        chosen = dict(selected.candidate.settings)
        edges = at_edge(chosen, [one.settings for one in self.candidates])
        text = brief(chosen)
        if edges:
            text += f" (at the edge: {', '.join(SHORT.get(name, name) for name in edges)})"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For JSON; candidates on the method's front of refusal delta and retention are marked."""
        front = on_front(self.candidates)
        return {
            "candidates": [
                {**one.as_dict(), "front": kept}
                for one, kept in zip(self.candidates, front, strict=True)
            ],
            "entries": {
                f"{level:g}": None if selected is None else selected.as_dict()
                for level, selected in self.selections.items()
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "MethodResult":
        """What `as_dict` wrote."""
        return cls(
            [Scored.from_dict(one) for one in content["candidates"]],
            {
                float(level): None if selected is None else Selected.from_dict(selected)
                for level, selected in content["entries"].items()
            },
        )


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """One seed of a trial, finished.

    Attributes:
        key: Digest of all that decides it; an equal one need not be run again.
        world: Name of the world.
        seed: Its seed.
        references: Base, tuned and refusing everything.
        method_results: Method -> what it did.
        facts: The test bed's facts, versions, seconds.
    """

    key: str
    world: str
    seed: int
    references: References
    method_results: dict[str, MethodResult]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "key": self.key,
            "world": self.world,
            "seed": self.seed,
            "facts": self.facts,
            "ends": {
                name: {split: metrics.as_dict() for split, metrics in by_split.items()}
                for name, by_split in self.references.items()
            },
            "ways": {
                name: method_result.as_dict() for name, method_result in self.method_results.items()
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SeedResult":
        """What `as_dict` wrote."""
        return cls(
            content["key"],
            content["world"],
            content["seed"],
            {
                name: {split: read_metrics(metrics) for split, metrics in by_split.items()}
                for name, by_split in content["ends"].items()
            },
            {name: MethodResult.from_dict(one) for name, one in content["ways"].items()},
            content["facts"],
        )


def at_edge(chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """Numbers of a setting that are the smallest or largest of at least three that were tried."""
    names = []
    for name, value in chosen.items():
        if isinstance(value, Mapping):
            names += at_edge(value, [one[name] for one in tried if name in one])
        elif isinstance(value, int | float):
            values = sorted({one[name] for one in tried if name in one})
            if len(values) > 2 and value in (values[0], values[-1]):
                names.append(name)
    return names
