"""The tables of a fair trial: one for each level of retention, and who beat whom."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hcnr.lab.choosing import Entry
from hcnr.lab.making import SHORT, brief
from hcnr.lab.seed_result import SeedResult, Showing
from hcnr.lab.seeds import Spread
from hcnr.lab.standings import FIGURES, Standing, Verdict, lead_text, verdict
from hcnr.lab.table import markdown, terminal
from hcnr.lab.ways import FINE_TUNING, INTERPOLATION

_OWN = {"interpolation": (INTERPOLATION,), "fine-tuning": FINE_TUNING}
RIVALS = tuple(_OWN)
_HEADS = ("vs interp.*", "vs tuning**")
_WORDS: tuple[tuple[Verdict, str], ...] = (
    ("better", "better"),
    ("worse", "worse"),
    ("undecided", "not told apart"),
)
_EDGE = (
    "At the edge: the smallest or the largest of the values that were tried, so that a wider grid "
    "might do better.\n"
)
COLUMNS = ("way", "seeds", *FIGURES, *_HEADS)


@dataclasses.dataclass(frozen=True)
class TrialTable:
    """What a trial found.

    Attributes:
        world: Where it was held.
        results: One per seed.
        levels: Of retention, in percent.
    """

    world: str
    results: Sequence[SeedResult]
    levels: Sequence[float]

    @cached_property
    def ends(self) -> list[Standing]:
        """Rows of the models that nobody had to choose."""
        return [
            Standing.of_marks(name, [one.ends[name]["evaluated"] for one in self.results])
            for name in self.results[0].ends
        ]

    def ways(self, level: float) -> list[Standing]:
        """Rows of all ways at a level."""
        rivals = self._rivals(level)
        return [
            Standing.of_entries(
                name,
                self._entries(name, level),
                {rival: found for rival, found in rivals.items() if name not in _OWN[rival]},
            )
            for name in self.results[0].showings
        ]

    def verdicts(self, level: float) -> list[str]:
        """Who beats which rival at a level, who loses, and who cannot be told apart, in words."""
        found = []
        ways = self.ways(level)
        for rival in RIVALS:
            f1 = {row.name: row.leads[rival] for row in ways if rival in row.leads}
            deltas = {row.name: row.delta_leads[rival] for row in ways if rival in row.leads}
            for figure, leads in (("F1", f1), ("Refusal delta", deltas)):
                if leads:
                    found.append(f"{figure} against {rival} at {level:g} %: {_sorted_out(leads)}.")
        absent = [row.name for row in ways if not row.seeds]
        if absent:
            names = ", ".join(map(repr, absent))
            found.append(
                f"No candidate of {names} kept {level:g} % and told better than the tuned model "
                "what it does not know, on the validation questions of any seed."
            )
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        first = self.results[0]
        n = len(self.results)
        numbers = ", ".join(str(one.seed) for one in self.results)
        arena = first.facts["arena"]
        sizes = f"{arena['parameters'] / 1e6:.2f} M parameter models"
        tries = [len(showing.candidates) for showing in first.showings.values()]
        notes = [
            f"World {self.world}, {n} seed{'s' if n > 1 else ''} ({numbers}), {sizes}: leads, not "
            "claims. Figures in percent, s in seconds of the processor, one thread.",
            f"Each way tried {min(tries)} to {max(tries)} settings. On the validation questions of "
            "a seed it chose the best F1 among those that keep at least the level and have a "
            "refusal delta above the tuned model's; that one was judged once, on other questions. "
            "What it keeps there (kept) may come out lower than the level.",
            "kept: share of the fine-tuning's gain in likelihood of held-out task answers; exact: "
            "task questions answered exactly right; ref. ans.: refusals of answerable questions; "
            "s: to make that one model, measuring and training included.",
            "seeds: in how many a setting qualified; means are over those, so that rows with "
            "different seeds are not to be compared, the last two columns are.",
            "* and **: F1 minus that of interpolation, and of fine-tuning back on the same samples "
            "(honesty only or both, whichever had the better validation F1), seed by seed. Where "
            "the interval holds 0 nothing is claimed. Refusing more of everything can raise F1, "
            "and not the refusal delta, which is why both are compared.",
        ]
        if n > 1:
            notes.append(
                "±: half of the 95 % interval over the seeds of that cell (Student's t), not "
                "corrected for the number of comparisons; so few seeds make it wide."
            )
        else:
            notes.append("One seed has no interval, and decides nothing.")
        return notes

    def to_rich(self) -> Group:
        """The tables for a terminal of 100 columns."""
        parts: list[Table | Text] = []
        for level in self.levels:
            title = f"Fair trial, {self.world}: at least {level:g} % of the task kept"
            lines = [(row.cells(RIVALS, "\n"), False) for row in [*self.ends, *self.ways(level)]]
            parts.append(terminal(title, COLUMNS, lines, self.verdicts(level)))
        return Group(*parts, Text("\n".join(self.notes), style="dim"))

    def to_markdown(self) -> str:
        """The tables for a README, the settings that were chosen, and the notes."""
        parts = []
        for level in self.levels:
            lines = [(row.cells(RIVALS, " "), False) for row in [*self.ends, *self.ways(level)]]
            parts.append(f"### At least {level:g} % of the task kept\n")
            parts.append(markdown(COLUMNS, lines, self.verdicts(level)))
        heads = ("settings chosen", *(f"seed {one.seed}" for one in self.results))
        for level in self.levels:
            lines = [
                ((name, *(_settings(one.showings[name], level) for one in self.results)), False)
                for name in self.results[0].showings
            ]
            parts.append(f"### Settings at {level:g} %\n")
            parts.append(markdown(heads, lines, []))
        parts.append(_EDGE)
        title = f"## Fair trial, {self.world} world\n"
        return "\n".join([title, *parts, *(f"{note}\n" for note in map(_plain, self.notes))])

    def as_dict(self) -> dict[str, Any]:
        """Everything, every candidate of every seed included, for JSON."""
        return {
            "world": self.world,
            "seeds": [one.seed for one in self.results],
            "levels": list(self.levels),
            "interval": {"level": 95, "method": "Student's t over seeds", "half_width": True},
            "ends": [row.as_dict() for row in self.ends],
            "tables": {
                f"{level:g}": {
                    "ways": [row.as_dict() for row in self.ways(level)],
                    "verdicts": self.verdicts(level),
                }
                for level in self.levels
            },
            "notes": self.notes,
            "results": [one.as_dict() for one in self.results],
        }

    def _entries(self, name: str, level: float) -> list[Entry | None]:
        return [one.showings[name].entries[level] for one in self.results]

    def _rivals(self, level: float) -> Mapping[str, Sequence[Entry | None]]:
        """The rivals' entries, one per seed, where the rivals take part."""
        names = self.results[0].showings
        there = {
            rival: [self._entries(name, level) for name in own if name in names]
            for rival, own in _OWN.items()
        }
        return {
            rival: [best_of(by_way) for by_way in zip(*found, strict=True)]
            for rival, found in there.items()
            if found
        }


def best_of(entries: Sequence[Entry | None]) -> Entry | None:
    """The entry with the best F1 on the validation questions, as a user would choose."""
    there = [entry for entry in entries if entry is not None]
    return max(there, key=lambda entry: entry.chosen.validation.f1, default=None)


def _sorted_out(leads: Mapping[str, Spread]) -> str:
    """Who is better, who is worse, and who cannot be told apart."""
    parts = []
    for kind, words in _WORDS:
        names = [
            f"'{name}'" if kind == "undecided" else f"'{name}' ({lead_text(lead)})"
            for name, lead in leads.items()
            if verdict(lead) == kind
        ]
        parts.append(f"{words}: {', '.join(names) or 'no way'}")
    return "; ".join(parts)


def _settings(showing: Showing, level: float) -> str:
    """What was chosen, and which of its numbers are the smallest or largest that were tried."""
    entry = showing.entries[level]
    if entry is None:
        return "none qualified"
    chosen = dict(entry.chosen.settings)
    edges = at_edge(chosen, [one.settings for one in showing.candidates])
    text = brief(chosen)
    if edges:
        text += f" (at the edge: {', '.join(SHORT.get(name, name) for name in edges)})"
    return text


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


def _plain(note: str) -> str:
    return note.replace("*", r"\*")
