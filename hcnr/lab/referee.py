"""One seed of a trial: all candidates judged by validation questions, chosen ones by others."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from hcnr.lab.arena import PARTS, Arena, Judge, Marks, Part
from hcnr.lab.choosing import Entry, Judged, choose
from hcnr.lab.journal import Journal
from hcnr.lab.making import Making, key_of
from hcnr.lab.seed_result import Ends, Showing
from hcnr.lab.ways import Way
from hcnr.lab.workshop import Workshop
from hcnr.stages import Watcher


class Referee:
    """Has candidates of one arena made and judged; what the journal holds is not done again."""

    def __init__(self, arena: Arena, journal: Journal, watcher: Watcher) -> None:
        """Judges are prepared when they are first needed."""
        self._arena, self._journal, self._watcher = arena, journal, watcher
        self._judges: dict[Part, Judge] = {}

    def ends(self) -> Ends:
        """Marks of both ends, and of always refusing."""
        paths = {"base": self._arena.base, "tuned": self._arena.tuned}
        self._watcher.begin(f"seed {self._arena.seed}: base and tuned")
        found: Ends = {name: {part: self._end(name, path, part) for part in PARTS}
                       for name, path in paths.items()}  # fmt: skip
        found["refuse all"] = {part: self._judge(part).refuse_all() for part in PARTS}
        return found

    def hold(
        self, ways: Sequence[Way], levels: Sequence[float], tuned: Marks
    ) -> dict[str, Showing]:
        """Judge all candidates of some ways, choose, and judge the chosen ones once more.

        Args:
            ways: In printed order; those on the same samples share what is measured.
            levels: Of retention, in percent.
            tuned: Marks of the tuned model on the validation questions.
        """
        found: dict[str, Showing] = {}
        for samples in dict.fromkeys(way.samples for way in ways):
            with Workshop(self._arena, samples) as workshop:
                for way in (one for one in ways if one.samples == samples):
                    found[way.name] = self._hold(workshop, way, levels, tuned)
        return {way.name: found[way.name] for way in ways}

    def _hold(self, workshop: Workshop, way: Way, levels: Sequence[float], tuned: Marks) -> Showing:
        makings = {key_of(one, way.samples): one for one in way.grid}
        judged = {
            key: Judged(makings[key].as_dict(), marks, seconds)
            for key, (marks, seconds) in self._marks(
                workshop, way.name, makings, "validation"
            ).items()
        }
        chosen: dict[float, str | None] = {}
        for level in levels:
            best = choose(list(judged.values()), tuned, level)
            chosen[level] = next((key for key, one in judged.items() if one is best), None)
        sent = {key: makings[key] for key in chosen.values() if key is not None}
        shown = self._marks(workshop, way.name, sent, "evaluated")
        entries = {
            level: None if key is None else Entry(judged[key], shown[key][0])
            for level, key in chosen.items()
        }
        return Showing(list(judged.values()), entries)

    def _marks(
        self, workshop: Workshop, name: str, makings: Mapping[str, Making], part: Part
    ) -> dict[str, tuple[Marks, float]]:
        """Marks and seconds of candidates by key, from the journal or from the judge."""
        found = {key: self._journal.get(key, part) for key in makings}
        missing = {key: makings[key] for key, known in found.items() if known is None}
        if missing:
            self._watcher.begin(f"seed {self._arena.seed}: {name}, {part}")
            counted = itertools.count(1)
            for made in workshop.make(list(missing.values())):
                key, marks = key_of(made.making, workshop.samples), self._judge(part)(made.model)
                self._journal.add(key, part, marks, made.seconds)
                found[key] = marks, made.seconds
                self._watcher.advance(next(counted), len(missing))
        return {key: known for key, known in found.items() if known is not None}

    def _end(self, name: str, path: Path, part: Part) -> Marks:
        known = self._journal.get(name, part)
        if known is None:
            known = self._judge(part)(self._arena.load(path)), 0.0
            self._journal.add(name, part, *known)
        return known[0]

    def _judge(self, part: Part) -> Judge:
        if part not in self._judges:
            self._judges[part] = self._arena.judge(part)
        return self._judges[part]
