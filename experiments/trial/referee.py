"""One seed of a trial: all candidates judged by validation questions, chosen ones by others."""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.trial.arena import PARTS, Arena, Judge, Marks, Part
from experiments.trial.choosing import RIVALS, Entry, Judged, choose, choose_rival
from experiments.trial.journal import Journal
from experiments.trial.making import Making, key_of
from experiments.trial.seed_result import Ends, Showing
from experiments.trial.ways import Way
from experiments.trial.workshop import Workshop
from hcnr.progress import Watcher

_Judged = dict[str, Judged]
"""Key -> candidate, as judged."""
_Choice = tuple[Judged, dict[str, Judged]]
"""A way's candidate, and each rival's against it."""


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

        Every way's choice is compared with the rivals among `ways`, each sending in a candidate
        that keeps at least as much on the validation questions. All choices are made before the
        first evaluated question is asked of a candidate.

        Args:
            ways: In printed order; those on the same samples share what is measured.
            levels: Of retention, in percent.
            tuned: Marks of the tuned model on the validation questions.
        """
        unchanged = Judged.tuned(tuned)
        with contextlib.ExitStack() as opened:
            workshops = {
                samples: opened.enter_context(Workshop(self._arena, samples))
                for samples in dict.fromkeys(way.samples for way in ways)
            }
            judged = {way.name: self._judged(workshops[way.samples], way) for way in ways}
            choices = _choices(judged, levels, unchanged)
            shown = {id(unchanged): self._end("tuned", self._arena.tuned, "evaluated")}
            for way in ways:
                sent = _sent(judged[way.name], choices)
                makings = {key: one for key, one in _makings(way).items() if key in sent}
                found = self._marks(workshops[way.samples], way.name, makings, "evaluated")
                shown.update({id(sent[key]): marks for key, (marks, _) in found.items()})
        return {
            name: Showing(
                list(judged[name].values()),
                {level: _entry(choice, shown) for level, choice in by_level.items()},
            )
            for name, by_level in choices.items()
        }

    def _judged(self, workshop: Workshop, way: Way) -> _Judged:
        """All candidates of a way on the validation questions."""
        makings = _makings(way)
        return {
            key: Judged(makings[key].as_dict(), marks, seconds)
            for key, (marks, seconds) in self._marks(
                workshop, way.name, makings, "validation"
            ).items()
        }

    def _marks(
        self, workshop: Workshop, name: str, makings: Mapping[str, Making], part: Part
    ) -> dict[str, tuple[Marks, float]]:
        """Marks and seconds of candidates by key, from the journal or from the judge."""
        found = {key: self._journal.get(key, part) for key in makings}
        missing = {key: makings[key] for key, known in found.items() if known is None}
        if missing:
            self._watcher.begin(f"seed {self._arena.seed}: {name}, {part}")
            least = self._arena.least_retention if part == "validation" else -math.inf
            counted = itertools.count(1)
            for made in workshop.make(list(missing.values())):
                key = key_of(made.making, workshop.samples)
                marks = self._judge(part)(made.model, made.instruction, least=least)
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


def _makings(way: Way) -> dict[str, Making]:
    return {key_of(one, way.samples): one for one in way.grid}


def _choices(
    judged: Mapping[str, _Judged], levels: Sequence[float], tuned: Judged
) -> dict[str, dict[float, _Choice | None]]:
    """What every way sends in at every level, with what the rivals send in against it."""
    pools = {
        rival: [one for name in own if name in judged for one in judged[name].values()]
        for rival, own in RIVALS.items()
        if any(name in judged for name in own)
    }

    def choice(name: str, level: float) -> _Choice | None:
        own = choose(list(judged[name].values()), tuned.validation, level)
        if own is None:
            return None
        against = {
            rival: choose_rival(own.validation, pool, tuned)
            for rival, pool in pools.items()
            if name not in RIVALS[rival]
        }
        return own, {rival: one for rival, one in against.items() if one is not None}

    return {name: {level: choice(name, level) for level in levels} for name in judged}


def _sent(judged: _Judged, choices: Mapping[str, Mapping[float, _Choice | None]]) -> _Judged:
    """Those of a way's candidates that anybody's choice has, as its own or as a rival."""
    wanted = {
        id(one)
        for by_level in choices.values()
        for choice in by_level.values()
        if choice is not None
        for one in (choice[0], *choice[1].values())
    }
    return {key: one for key, one in judged.items() if id(one) in wanted}


def _entry(choice: _Choice | None, shown: Mapping[int, Marks]) -> Entry | None:
    if choice is None:
        return None
    own, against = choice
    rivals = {rival: Entry(one, shown[id(one)]) for rival, one in against.items()}
    return Entry(own, shown[id(own)], rivals)
