"""Rows over seeds: means with intervals, and differences from a baseline on the same seeds."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments.trial.metrics import Metrics
from experiments.trial.selection import Selected
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
"""The figures that are compared with a baseline's, the one that chose first."""

MOST_APART = 3.0
"""Points of mean retention beyond which a row and its baseline are not compared in words."""

_DEVELOPED = range(3)
_ROUNDING = 1e-9
_SIGNED = ("refusal_delta",)

Verdict = Literal["better", "worse", "undecided", "not compared"]


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """A row against a baseline, over the seeds in which both have a selection.

    Attributes:
        pairs: Of every such seed the row's metrics and the baseline's, both on the test questions.
    """

    pairs: tuple[tuple[Metrics, Metrics], ...]

    def of(self, figure: str) -> Spread:
        """The row's figure minus the baseline's, seed by seed."""
        return Spread(tuple(getattr(a, figure) - getattr(b, figure) for a, b in self.pairs))

    @property
    def kept(self) -> tuple[float, float]:
        """Mean retention of the row and of the baseline."""
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
        content: dict[str, Any] = {"n": len(self.pairs), "kept": {"row": mine, "rival": theirs}}
        for figure in COMPARED.values():
            content[figure] = {**spread_dict(self.of(figure)), "verdict": self.verdict(figure)}
        return content


@dataclasses.dataclass(frozen=True)
class MethodSummary:
    """One row of a table.

    Attributes:
        name: The method, or the model.
        figures: Figure -> its values over the seeds that have it.
        seeds: How many seeds have a selection.
        of: How many seeds there are.
        differences: Baseline -> how the row compares with it.
    """

    name: str
    figures: dict[str, Spread]
    seeds: int
    of: int
    differences: dict[str, PairedDifference]

    @classmethod
    def of_selections(
        cls,
        name: str,
        selections: Sequence[Selected | None],
        baselines: Mapping[str, Sequence[Selected | None]],
    ) -> "MethodSummary":
        """A method's row at one level.

        Args:
            name: Of the method.
            selections: One per seed.
            baselines: The same of each baseline, the same seeds in the same order.
        """
        there = [selected for selected in selections if selected is not None]
        figures = _figures([selected.test for selected in there])
        if there:
            figures["seconds"] = Spread(tuple(selected.candidate.seconds for selected in there))
        pairs = {
            baseline: tuple(
                (one.test, other.test)
                for one, other in zip(selections, theirs, strict=True)
                if one is not None and other is not None
            )
            for baseline, theirs in baselines.items()
        }
        differences = {baseline: PairedDifference(both) for baseline, both in pairs.items() if both}
        return cls(name, figures, len(there), len(selections), differences)

    @classmethod
    def of_metrics(cls, name: str, metrics: Sequence[Metrics]) -> "MethodSummary":
        """The row of a model that nobody chose, one per seed."""
        return cls(name, _figures(metrics), len(metrics), len(metrics), {})

    def cells(self, baselines: Sequence[str], between: str) -> list[str]:
        """The row as text: its name, seeds, figures and differences.

        Args:
            baselines: The differences to print, in this order, of every compared figure.
            between: Stands between the parts of a name, between a mean and its interval, and
                before a smaller number of seeds.
        """
        cells = [self.name.replace(", ", f",{between}"), f"{self.seeds}/{self.of}"]
        for name in FIGURES.values():
            cells.append(_cell(self.figures.get(name), between, name in _SIGNED))
        for baseline in baselines:
            cells += [
                self._difference_cell(baseline, figure, between) for figure in COMPARED.values()
            ]
        return cells

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "of": self.of,
            **{name: spread_dict(found) for name, found in self.figures.items()},
            "leads": {
                baseline: difference.as_dict() for baseline, difference in self.differences.items()
            },
        }

    def _difference_cell(self, baseline: str, figure: str, between: str) -> str:
        difference = self.differences.get(baseline)
        if difference is None:
            return ""
        text, n = _cell(difference.of(figure), between, True), len(difference.pairs)
        return text if n == self.seeds else f"{text}{between}(n {n})"


def half_width(spread: Spread) -> float | None:
    """Half the 95 % interval of a mean; None where one value alone gives none."""
    return spread.half_width if len(spread.values) > 1 else None


def verdict(difference: Spread) -> Verdict:
    """Which side of 0 a difference's whole interval is on; nothing is claimed if it holds 0."""
    half = half_width(difference)
    if half is None or abs(difference.mean) <= half + _ROUNDING:
        return "undecided"
    return "better" if difference.mean > 0 else "worse"


def developed_on(world: str, seeds: Sequence[int]) -> list[str]:
    """The note that some of the seeds were not fresh; none where all were."""
    if world != "synthetic" or not set(seeds) & set(_DEVELOPED):
        return []
    return [
        "Synthetic seeds 0 to 2 were used while the two-sided kinds and their demo settings were "
        "developed, so they are no fresh trial of those; other seeds are."
    ]


def difference_text(difference: Spread) -> str:
    """A difference with its interval: `+3.1 ±1.2`."""
    return _cell(difference, " ", True)


def spread_dict(spread: Spread) -> dict[str, Any]:
    """Mean, interval and values, for JSON."""
    return {"mean": spread.mean, "half_width": half_width(spread), "values": list(spread.values)}


def _figures(metrics: Sequence[Metrics]) -> dict[str, Spread]:
    """Every figure that all of them have."""
    by_name = {}
    for name in (one for one in FIGURES.values() if one != "seconds"):
        values = tuple(float(getattr(one, name)) for one in metrics)
        if values and not any(map(math.isnan, values)):
            by_name[name] = Spread(values)
    return by_name


def _cell(spread: Spread | None, between: str, signed: bool) -> str:
    if spread is None:
        return ""
    mean, half = f"{spread.mean:{'+' if signed else ''}.1f}", half_width(spread)
    return mean if half is None else f"{mean}{between}±{half:.1f}"
