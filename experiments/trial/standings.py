"""Rows over seeds: means with intervals, and differences from a rival on the same seeds."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments.trial.arena import Marks
from experiments.trial.choosing import Entry
from hcnr.demo.seeds import Spread

FIGURES = {
    "F1": "f1",
    "delta": "refusal_delta",
    "ref. ans.": "refusal_answerable",
    "kept": "retention",
    "exact": "accuracy",
    "s": "seconds",
}
"""Head of a column -> its figure."""

COMPARED = {"delta": "refusal_delta", "F1": "f1"}
"""The figures that are compared with a rival's, the one that chose first."""

MOST_APART = 3.0
"""Points of mean retention beyond which a row and its rival are not compared in words."""

_DEVELOPED = range(3)
_ROUNDING = 1e-9
_SIGNED = ("refusal_delta",)

Verdict = Literal["better", "worse", "undecided", "not compared"]


@dataclasses.dataclass(frozen=True)
class Lead:
    """A row against a rival, over the seeds in which both have an entry.

    Attributes:
        pairs: Of every such seed the row's marks and the rival's, both on the evaluated questions.
    """

    pairs: tuple[tuple[Marks, Marks], ...]

    def of(self, figure: str) -> Spread:
        """The row's figure minus the rival's, seed by seed."""
        return Spread(tuple(getattr(a, figure) - getattr(b, figure) for a, b in self.pairs))

    @property
    def kept(self) -> tuple[float, float]:
        """Mean retention of the row and of the rival."""
        mine, theirs = zip(*((a.retention, b.retention) for a, b in self.pairs), strict=True)
        return statistics.fmean(mine), statistics.fmean(theirs)

    @property
    def comparable(self) -> bool:
        """Whether both keep about as much; not if what is kept is undefined."""
        mine, theirs = self.kept
        return abs(mine - theirs) <= MOST_APART

    @property
    def apart(self) -> str:
        """By how much the row keeps more or less: `keeps 4.2 points less`."""
        mine, theirs = self.kept
        if math.isnan(mine - theirs):
            return "what is kept is undefined"
        return f"keeps {abs(mine - theirs):.1f} points {'more' if mine > theirs else 'less'}"

    def verdict(self, figure: str) -> Verdict:
        """Who has the better figure, if both keep about as much and the interval leaves out 0."""
        return verdict(self.of(figure)) if self.comparable else "not compared"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        mine, theirs = (None if math.isnan(one) else one for one in self.kept)
        found: dict[str, Any] = {"n": len(self.pairs), "kept": {"row": mine, "rival": theirs}}
        for figure in COMPARED.values():
            found[figure] = {**spread_dict(self.of(figure)), "verdict": self.verdict(figure)}
        return found


@dataclasses.dataclass(frozen=True)
class Standing:
    """One row of a table.

    Attributes:
        name: The way, or the model.
        figures: Figure -> its values over the seeds that have it.
        seeds: How many seeds have an entry.
        of: How many seeds there are.
        leads: Rival -> how the row compares with it.
    """

    name: str
    figures: dict[str, Spread]
    seeds: int
    of: int
    leads: dict[str, Lead]

    @classmethod
    def of_entries(
        cls,
        name: str,
        entries: Sequence[Entry | None],
        rivals: Mapping[str, Sequence[Entry | None]],
    ) -> "Standing":
        """A way's row at one level.

        Args:
            name: Of the way.
            entries: One per seed.
            rivals: The same of each rival, the same seeds in the same order.
        """
        there = [entry for entry in entries if entry is not None]
        figures = _figures([entry.evaluated for entry in there])
        if there:
            figures["seconds"] = Spread(tuple(entry.chosen.seconds for entry in there))
        pairs = {
            rival: tuple(
                (one.evaluated, other.evaluated)
                for one, other in zip(entries, theirs, strict=True)
                if one is not None and other is not None
            )
            for rival, theirs in rivals.items()
        }
        leads = {rival: Lead(both) for rival, both in pairs.items() if both}
        return cls(name, figures, len(there), len(entries), leads)

    @classmethod
    def of_marks(cls, name: str, marks: Sequence[Marks]) -> "Standing":
        """The row of a model that nobody chose, one per seed."""
        return cls(name, _figures(marks), len(marks), len(marks), {})

    def cells(self, rivals: Sequence[str], between: str) -> list[str]:
        """The row as text: its name, seeds, figures and leads.

        Args:
            rivals: The leads to print, in this order, of every compared figure.
            between: Stands between the parts of a name, between a mean and its interval, and
                before a smaller number of seeds.
        """
        found = [self.name.replace(", ", f",{between}"), f"{self.seeds}/{self.of}"]
        for name in FIGURES.values():
            found.append(_cell(self.figures.get(name), between, name in _SIGNED))
        for rival in rivals:
            found += [self._lead_cell(rival, figure, between) for figure in COMPARED.values()]
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "of": self.of,
            **{name: spread_dict(found) for name, found in self.figures.items()},
            "leads": {rival: lead.as_dict() for rival, lead in self.leads.items()},
        }

    def _lead_cell(self, rival: str, figure: str, between: str) -> str:
        lead = self.leads.get(rival)
        if lead is None:
            return ""
        text, n = _cell(lead.of(figure), between, True), len(lead.pairs)
        return text if n == self.seeds else f"{text}{between}(n {n})"


def half_width(found: Spread) -> float | None:
    """Half the 95 % interval of a mean; None where one value alone gives none."""
    return found.half_width if len(found.values) > 1 else None


def verdict(lead: Spread) -> Verdict:
    """Which side of 0 the whole interval of a lead is on; nothing is claimed if it holds 0."""
    half = half_width(lead)
    if half is None or abs(lead.mean) <= half + _ROUNDING:
        return "undecided"
    return "better" if lead.mean > 0 else "worse"


def developed_on(world: str, seeds: Sequence[int]) -> list[str]:
    """The note that some of the seeds were not fresh; none where all were."""
    if world != "synthetic" or not set(seeds) & set(_DEVELOPED):
        return []
    return [
        "Synthetic seeds 0 to 2 were used while the two-sided kinds and their demo settings were "
        "developed, so they are no fresh trial of those; other seeds are."
    ]


def lead_text(lead: Spread) -> str:
    """A lead with its interval: `+3.1 ±1.2`."""
    return _cell(lead, " ", True)


def spread_dict(found: Spread) -> dict[str, Any]:
    """Mean, interval and values, for JSON."""
    return {"mean": found.mean, "half_width": half_width(found), "values": list(found.values)}


def _figures(marks: Sequence[Marks]) -> dict[str, Spread]:
    """Every figure that all of them have."""
    found = {}
    for name in (one for one in FIGURES.values() if one != "seconds"):
        values = tuple(float(getattr(one, name)) for one in marks)
        if values and not any(map(math.isnan, values)):
            found[name] = Spread(values)
    return found


def _cell(found: Spread | None, between: str, signed: bool) -> str:
    if found is None:
        return ""
    mean, half = f"{found.mean:{'+' if signed else ''}.1f}", half_width(found)
    return mean if half is None else f"{mean}{between}±{half:.1f}"
