"""What one seed of a trial found: kept in a file, and all that the tables are made of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hcnr.lab.arena import Marks, Part
from hcnr.lab.choosing import Entry, Judged, on_front, read_marks

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

    def as_dict(self) -> dict[str, Any]:
        """For JSON; candidates on the way's front of F1 and retention are marked."""
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
