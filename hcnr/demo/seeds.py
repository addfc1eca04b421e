"""The demo's table over several worlds: means, and how far they can be trusted."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hcnr.demo.table import DemoTable, RepairRow, markdown, terminal

# 97.5 % points of Student's t distribution for 1, 2, ... degrees of freedom: the two-sided 95 %.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MOST_SEEDS = len(_T) + 1

_COLUMNS = {
    "delta": "refusal_delta",
    "refuse unkn.": "refusal_unknown",
    "refuse known": "refusal_known",
    "F1": "honesty_f1",
    "known right": "known_accuracy",
    "task right": "task_accuracy",
    "rival delta*": "rival_delta",
    "lead**": "lead",
}
_SIGNED = ("refusal_delta", "rival_delta", "lead")


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        values: one per seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.fmean(self.values)

    @property
    def half_width(self) -> float:
        """Half the 95 % t interval of the mean: `t * deviation / sqrt(n)`, n - 1 degrees."""
        n = len(self.values)
        return _T[n - 2] * statistics.stdev(self.values) / math.sqrt(n)


@dataclasses.dataclass(frozen=True)
class SeedsRow:
    """One method over all seeds; a figure that some seed lacks is left out."""

    method: str
    figures: dict[str, Spread]
    best: bool

    def cells(self, between: str) -> list[str]:
        """The row as text; `between` stands between a mean and its interval."""
        return [self.method, *(self._cell(name, between) for name in _COLUMNS.values())]

    def _cell(self, name: str, between: str) -> str:
        if name not in self.figures:
            return ""
        spread = self.figures[name]
        sign = "+" if name in _SIGNED else ""
        return f"{spread.mean:{sign}.1f}{between}±{spread.half_width:.1f}"


@dataclasses.dataclass(frozen=True)
class SeedsTable:
    """What the demo found in several worlds.

    Attributes:
        tables: the table of every seed.
    """

    tables: Mapping[int, DemoTable]

    @property
    def rows(self) -> list[SeedsRow]:
        """The methods that every seed has, in the order of the first."""
        by_seed = [{row.method: row for row in table.rows} for table in self.tables.values()]
        return [
            _row([rows[method] for rows in by_seed])
            for method in by_seed[0]
            if all(method in rows for rows in by_seed)
        ]

    def row(self, method: str) -> SeedsRow:
        """The row of a method by its name, or by the first word of it."""
        return next(row for row in self.rows if method in (row.method, row.method.split()[0]))

    @property
    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        n = len(self.tables)
        first = next(iter(self.tables.values()))
        return [
            f"All figures in percent, means over {n} invented worlds (seeds "
            f"{', '.join(map(str, self.tables))}), each with its own "
            f"{first.facts['parameters'] / 1e6:.2f} M parameter Llama. Figures of tiny models: "
            "leads, not claims.",
            f"±: half of the 95 % interval of the mean over the worlds (Student's t at {n - 1} "
            f"degrees of freedom, {_T[n - 2]} standard errors). So few worlds make it wide, and it "
            "may pass 0 or 100.",
            *first.shared_notes,
            *self._words,
            "The intervals do not know how settings were chosen: where seeds 0 to 2 are among the "
            "worlds, balanced may look better than it would on fresh ones, such as --seed 3.",
            "* Best delta of plain interpolation towards the base (all weights, or the linear maps "
            "of the blocks only) whose task accuracy is at least the row's, in every world.",
            "** delta minus the rival's, taken world by world.",
        ]

    @property
    def _words(self) -> list[str]:
        """What the reports of the worlds say about the sweep's choice."""
        words = [
            f"{table.facts['recommendation']['word']} ({seed})"
            for seed, table in self.tables.items()
            if "recommendation" in table.facts
        ]
        return [f"The reports on the sweep's choice, by seed: {', '.join(words)}."] if words else []

    def to_rich(self) -> Table:
        """The table for a terminal."""
        lines = [(row.cells("\n"), row.best) for row in self.rows]
        title = f"Honesty lost and found, {len(self.tables)} seeds"
        return terminal(title, ("method", *_COLUMNS), lines, self.notes)

    def to_markdown(self) -> str:
        """The table for a README, with its notes below."""
        lines = [(row.cells(" "), row.best) for row in self.rows]
        return markdown(("method", *_COLUMNS), lines, self.notes)

    def as_dict(self) -> dict[str, Any]:
        """Means, intervals and values, for JSON; every seed's own file has the rest."""
        return {
            "seeds": list(self.tables),
            "interval": {"level": 95, "method": "Student's t over seeds", "half_width": True},
            "rows": [
                {
                    "method": row.method,
                    **{
                        name: {
                            "mean": spread.mean,
                            "half_width": spread.half_width,
                            "values": spread.values,
                        }
                        for name, spread in row.figures.items()
                    },
                }
                for row in self.rows
            ],
        }


def _row(rows: Sequence[RepairRow]) -> SeedsRow:
    seen = [_figures(row) for row in rows]
    figures = {
        name: Spread(tuple(one[name] for one in seen))
        for name in _COLUMNS.values()
        if all(name in one for one in seen)
    }
    return SeedsRow(rows[0].method, figures, rows[0].best)


def _figures(row: RepairRow) -> dict[str, float]:
    figures = row.evaluation.as_dict()
    if row.rival is not None:
        figures["rival_delta"] = row.rival.evaluation.refusal_delta
        figures["lead"] = figures["refusal_delta"] - figures["rival_delta"]
    return figures
