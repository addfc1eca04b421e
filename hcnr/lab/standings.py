"""Rows over seeds: means with intervals, and F1 against a rival on the same seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hcnr.lab.arena import Marks
from hcnr.lab.choosing import Entry
from hcnr.lab.seeds import Spread

FIGURES = {
    "F1": "f1",
    "delta": "refusal_delta",
    "ref. ans.": "refusal_answerable",
    "kept": "retention",
    "exact": "accuracy",
    "s": "seconds",
}
"""Head of a column -> its figure."""

_SIGNED = ("refusal_delta",)

Verdict = Literal["better", "worse", "undecided"]


@dataclasses.dataclass(frozen=True)
class Standing:
    """One row of a table.

    Attributes:
        name: The way, or the model.
        figures: Figure -> its values over the seeds that have it.
        seeds: How many seeds have an entry.
        of: How many seeds there are.
        leads: Rival -> F1 minus the rival's, over the seeds in which both have an entry.
        delta_leads: The same of the refusal delta.
    """

    name: str
    figures: dict[str, Spread]
    seeds: int
    of: int
    leads: dict[str, Spread]
    delta_leads: dict[str, Spread]

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
            rival: [
                (one.evaluated, other.evaluated)
                for one, other in zip(entries, theirs, strict=True)
                if one is not None and other is not None
            ]
            for rival, theirs in rivals.items()
        }
        leads, delta_leads = (
            {
                rival: Spread(tuple(getattr(a, figure) - getattr(b, figure) for a, b in both))
                for rival, both in pairs.items()
                if both
            }
            for figure in ("f1", "refusal_delta")
        )
        return cls(name, figures, len(there), len(entries), leads, delta_leads)

    @classmethod
    def of_marks(cls, name: str, marks: Sequence[Marks]) -> "Standing":
        """The row of a model that nobody chose, one per seed."""
        return cls(name, _figures(marks), len(marks), len(marks), {}, {})

    def cells(self, rivals: Sequence[str], between: str) -> list[str]:
        """The row as text: its name, seeds, figures and leads.

        Args:
            rivals: The leads to print, in this order.
            between: Stands between a mean and its interval.
        """
        found = [self.name, f"{self.seeds}/{self.of}"]
        for name in FIGURES.values():
            found.append(_cell(self.figures.get(name), between, name in _SIGNED))
        return [*found, *(_cell(self.leads.get(rival), between, True) for rival in rivals)]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "of": self.of,
            **{name: spread_dict(found) for name, found in self.figures.items()},
            "leads": {
                rival: {
                    "f1": _lead_dict(lead),
                    "refusal_delta": _lead_dict(self.delta_leads[rival]),
                }
                for rival, lead in self.leads.items()
            },
        }


def half_width(found: Spread) -> float | None:
    """Half the 95 % interval of a mean; None where one value alone gives none."""
    return found.half_width if len(found.values) > 1 else None


def verdict(lead: Spread) -> Verdict:
    """Which side of 0 the whole interval of a lead is on; nothing is claimed if it holds 0."""
    half = half_width(lead)
    if half is None or abs(lead.mean) <= half:
        return "undecided"
    return "better" if lead.mean > 0 else "worse"


def lead_text(lead: Spread) -> str:
    """A lead with its interval: `+3.1 ±1.2`."""
    return _cell(lead, " ", True)


def spread_dict(found: Spread) -> dict[str, Any]:
    """Mean, interval and values, for JSON."""
    return {"mean": found.mean, "half_width": half_width(found), "values": list(found.values)}


def _lead_dict(lead: Spread) -> dict[str, Any]:
    return {**spread_dict(lead), "verdict": verdict(lead)}


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
