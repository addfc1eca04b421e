"""The rows of the demo on a pretrained model, and what is to be done with the restored one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from hcnr.choosing.decision import Decision, Rival, decide, weigh
from hcnr.choosing.front import Gain
from hcnr.choosing.front import Scores as Figures
from hcnr.demo.table import terminal
from hcnr.evaluation.scoring import SetScores
from hcnr.stats import percentile_interval

COLUMNS = ("model", "delta", "95 %", "refuse unkn.", "refuse known", "F1", "task kept", "s*")
NOTES = (
    "One run on one pretrained model of 135 M parameters: KUQ questions that nothing was trained "
    "or measured on; task kept: share of what fine-tuning gained in the likelihood of 120 other "
    "answers, in percent.",
    "Always refusing would score F1 66.7 with a delta of 0: the delta decides.",
    "* Seconds of the repair.",
)


@dataclass(frozen=True)
class RealRow:
    """One model of the table.

    Attributes:
        name: as printed.
        scores: on the questions.
        retention: percent kept of what fine-tuning gained in likelihood on held-out task questions.
        seconds: of the repair; None for the two ends.
        best: whether it is highlighted.
        coefficient: of an interpolation.
        responses: what it said, by set.
    """

    name: str
    scores: SetScores
    retention: float
    seconds: float | None = None
    best: bool = False
    coefficient: float | None = None
    responses: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    @property
    def delta(self) -> tuple[float, float, float]:
        """Refusal delta in points, with its 95 % interval over questions."""
        values, draws = self.scores.values["kuq"], self.scores.draws["kuq"]
        low, high = percentile_interval(draws["refusal_delta"]) or (math.nan, math.nan)
        return float(values["refusal_delta"]), float(low), float(high)

    def cells(self) -> list[str]:
        """The row as text."""
        values = self.scores.values["kuq"]
        delta, low, high = self.delta
        return [
            self.name,
            f"{delta:+.1f}",
            f"{low:+.0f} to {high:+.0f}",
            f"{float(values['refusal_rate_unanswerable']):.1f}",
            f"{float(values['refusal_rate_answerable']):.1f}",
            f"{float(values['f1']):.1f}",
            f"{self.retention:.1f}",
            "" if self.seconds is None else f"{self.seconds:.0f}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        delta, low, high = self.delta
        names = ("f1", "refusal_rate_unanswerable", "refusal_rate_answerable")
        return {
            "name": self.name,
            **{name: float(self.scores.values["kuq"][name]) for name in names},
            "refusal_delta": delta,
            "interval": [low, high],
            "retention": self.retention,
            "seconds": self.seconds,
        }


def decision_of(rows: Sequence[RealRow], rival: RealRow | None) -> Decision:
    """What to do with the restored model; the rival keeps as much of the task in likelihood."""
    by_name = {row.name.split(" ")[0]: Figures.of(row.scores) for row in rows}
    restored, tuned = by_name["restored"], by_name["tuned"]
    evidence = weigh(restored, tuned)
    if rival is not None and rival.coefficient is not None:
        figures = Figures.of(rival.scores)
        gain, lead = Gain.between(figures, tuned), Gain.between(restored, figures)
        evidence = replace(evidence, rival=Rival(rival.coefficient, gain, lead))
    return decide(evidence)


def rich_table(rows: Sequence[RealRow]) -> Table:
    """The rows for a terminal."""
    lines = [(row.cells(), row.best) for row in rows]
    return terminal("A pretrained model, repaired", COLUMNS, lines, NOTES)
