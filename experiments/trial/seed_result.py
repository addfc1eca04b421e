"""What one seed of a trial found: kept in a file, and all that the tables are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.trial.arena import Marks, Part
from experiments.trial.choosing import Entry, Judged, on_front, read_marks
from experiments.trial.making import SHORT, brief

EDGE = (
    "At the edge: the smallest or the largest of at least three values that were tried, so that a "
    "wider grid might do better; settings with only two values are not marked."
)

Ends = dict[str, dict[Part, Marks]]
"""Marks of `base`, `tuned` and `refuse all` on both parts."""


@dataclasses.dataclass(frozen=True)
class Showing:
    """What one way did with one seed.

    Attributes:
        candidates: All of its grid, on the validation questions.
        entries: Level of retention -> what it sent in; None where no candidate qualified.
    """

    candidates: list[Judged]
    entries: dict[float, Entry | None]

    def repeats(self, level: float) -> bool:
        """Whether it sends in at a level what it sends in at a higher one."""
        entry = self.entries[level]
        return entry is not None and any(
            other is not None and higher > level and other.chosen.settings == entry.chosen.settings
            for higher, other in self.entries.items()
        )

    def settings(self, level: float) -> str:
        """What was chosen, and which of its numbers are the smallest or largest that were tried."""
        entry = self.entries[level]
        if entry is None:
            return "none qualified"
        if self.repeats(level):
            return "as above"
        chosen = dict(entry.chosen.settings)
        edges = at_edge(chosen, [one.settings for one in self.candidates])
        text = brief(chosen)
        if edges:
            text += f" (at the edge: {', '.join(SHORT.get(name, name) for name in edges)})"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For JSON; candidates on the way's front of refusal delta and retention are marked."""
        front = on_front(self.candidates)
        return {
            "candidates": [
                {**one.as_dict(), "front": kept}
                for one, kept in zip(self.candidates, front, strict=True)
            ],
            "entries": {
                f"{level:g}": None if entry is None else entry.as_dict()
                for level, entry in self.entries.items()
            },
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Showing":
        """What `as_dict` wrote."""
        return cls(
            [Judged.from_dict(one) for one in found["candidates"]],
            {
                float(level): None if entry is None else Entry.from_dict(entry)
                for level, entry in found["entries"].items()
            },
        )


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """One seed of a trial, finished.

    Attributes:
        key: Digest of all that decides it; an equal one need not be run again.
        world: Name of the world.
        seed: Its seed.
        ends: The models at both ends, and refusing everything.
        showings: Way -> what it did.
        facts: The arena's facts, versions, seconds.
    """

    key: str
    world: str
    seed: int
    ends: Ends
    showings: dict[str, Showing]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "key": self.key,
            "world": self.world,
            "seed": self.seed,
            "facts": self.facts,
            "ends": {
                name: {part: marks.as_dict() for part, marks in by_part.items()}
                for name, by_part in self.ends.items()
            },
            "ways": {name: showing.as_dict() for name, showing in self.showings.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "SeedResult":
        """What `as_dict` wrote."""
        return cls(
            found["key"],
            found["world"],
            found["seed"],
            {
                name: {part: read_marks(marks) for part, marks in by_part.items()}
                for name, by_part in found["ends"].items()
            },
            {name: Showing.from_dict(one) for name, one in found["ways"].items()},
            found["facts"],
        )


def at_edge(chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """Numbers of a setting that are the smallest or largest of at least three that were tried."""
    found = []
    for name, value in chosen.items():
        if isinstance(value, Mapping):
            found += at_edge(value, [one[name] for one in tried if name in one])
        elif isinstance(value, int | float):
            values = sorted({one[name] for one in tried if name in one})
            if len(values) > 2 and value in (values[0], values[-1]):
                found.append(name)
    return found
