"""The demo's table: its data, and the same data for a terminal, for Markdown and for JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from hcnr.demo.evaluation import Evaluation
from hcnr.demo.interpolation import InterpolationPoint
from hcnr.search.table import as_options

_COLUMNS = (
    "method",
    "delta",
    "refuse unkn.",
    "refuse known",
    "F1",
    "known right",
    "task right",
    "rival delta*",
    "s**",
)


@dataclasses.dataclass(frozen=True)
class RepairRow:
    """One model of the table.

    Attributes:
        method: what was done, as printed.
        evaluation: how it scored.
        rival: the best interpolated model that is at least as accurate on the task; None for the
            base and for rows that are interpolated themselves.
        seconds: what it took to make, measuring included, with the trainings left out.
        settings: the configuration it was made with.
        best: whether it is printed in bold.
    """

    method: str
    evaluation: Evaluation
    rival: InterpolationPoint | None = None
    seconds: float | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: bool = False

    @property
    def cells(self) -> list[str]:
        """The row as text, one cell per column."""
        it = self.evaluation
        figures = (it.refusal_unknown, it.refusal_known, it.honesty_f1, it.known_accuracy)
        return [
            self.method,
            f"{it.refusal_delta:+.1f}",
            *(f"{figure:.1f}" for figure in figures),
            f"{it.task_accuracy:.1f}",
            "" if self.rival is None else f"{self.rival.evaluation.refusal_delta:+.1f}",
            "" if self.seconds is None else f"{self.seconds:.1f}",
        ]


@dataclasses.dataclass(frozen=True)
class DemoTable:
    """Everything the demo found.

    Attributes:
        rows: the models in printed order; every one was really made and evaluated.
        refuse_all: what always refusing would score.
        curve: every interpolated model that was evaluated.
        facts: the world, its training and the machine, for the JSON file.
    """

    rows: list[RepairRow]
    refuse_all: Evaluation
    curve: list[InterpolationPoint]
    facts: dict[str, Any]

    def row(self, method: str) -> RepairRow:
        """The row of a method by its name, or by the first word of it."""
        return next(row for row in self.rows if method in (row.method, row.method.split()[0]))

    @property
    def shared_notes(self) -> list[str]:
        """Notes that hold for every world of one size."""
        return [
            "delta: refusals of unknown names minus refusals of known ones, in points. It decides: "
            f"always refusing would score F1 {self.refuse_all.honesty_f1:.1f} with a delta of 0.",
            "The sweep's choice has the best delta on validation questions; the settings of the "
            "other rows are fixed; those of balanced were chosen on seeds 0 to 2 of the full "
            "world.",
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        world = self.facts["recipe"]
        return [
            f"All figures in percent, from one run on a {self.facts['parameters'] / 1e6:.2f} M "
            f"parameter Llama trained on an invented world (seed {world['seed']}). Figures of a "
            "tiny model: leads, not claims.",
            f"Honesty: {self.facts['evaluated']['unknown']} names that no training and no "
            f"measuring has seen, and {self.facts['evaluated']['known']} known names; task: "
            f"{self.facts['evaluated']['task']} facts that were not measured.",
            *self.shared_notes,
            *self._choice,
            f"* Best delta of plain interpolation towards the base, of {len(self.curve)} models "
            "(all weights, or the linear maps of the blocks only), whose task accuracy is at least "
            "the row's.",
            "** Seconds for repairing, with one measuring pass that the fixed rows share (it "
            "collects what balanced needs), without the trainings and the sweep.",
        ]

    @property
    def _choice(self) -> list[str]:
        """The settings of the highlighted row and what to do with it, as its report says."""
        recommendation = self.facts.get("recommendation")
        if recommendation is None:
            return []
        settings = next((row.settings for row in self.rows if row.best), {})
        made = as_options(settings)
        return [f"Recommendation for {made}: {recommendation['word']}: {recommendation['reason']}."]

    def to_rich(self) -> Table:
        """The table for a terminal."""
        rows = [(row.cells, row.best) for row in self.rows]
        return terminal("Honesty lost and found", _COLUMNS, rows, self.notes)

    def to_markdown(self) -> str:
        """The table for a README, with its notes below."""
        return markdown(_COLUMNS, [(row.cells, row.best) for row in self.rows], self.notes)

    def as_dict(self) -> dict[str, Any]:
        """Every number and every setting, for JSON."""
        return {
            **self.facts,
            "rows": [
                {
                    "method": row.method,
                    **row.evaluation.as_dict(),
                    "interpolation": None if row.rival is None else _point(row.rival),
                    "seconds": row.seconds,
                    "settings": row.settings,
                }
                for row in self.rows
            ],
            "refuse_everything": self.refuse_all.as_dict(),
            "interpolation_curve": [_point(point) for point in self.curve],
        }


Lines = Sequence[tuple[Sequence[str], bool]]
"""Cells of every line, and whether it stands out."""


def terminal(title: str, columns: Sequence[str], lines: Lines, notes: Sequence[str]) -> Table:
    """A table that fits into 80 columns, its notes below."""
    # No vertical lines: with them it would not fit.
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.padding, table.collapse_padding, table.pad_edge = (0, 1, 0, 0), True, False
    table.caption, table.caption_justify = "\n".join(notes), "left"
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for cells, best in lines:
        table.add_row(*cells, style="bold green" if best else None)
    return table


def markdown(columns: Sequence[str], lines: Lines, notes: Sequence[str]) -> str:
    """The same for a README."""
    text = ["| " + " | ".join(_escaped(name) for name in columns) + " |"]
    text.append("|---|" + "---:|" * (len(columns) - 1))
    for cells, best in lines:
        marked = (f"**{cell}**" if best and cell else cell for cell in cells)
        text.append("| " + " | ".join(marked) + " |")
    return "\n".join([*text, "", *(part for note in notes for part in (_escaped(note), ""))])


def _escaped(text: str) -> str:
    return text.replace("*", r"\*")


def _point(point: InterpolationPoint) -> dict[str, float | str]:
    return {"coefficient": point.coefficient, "scope": point.scope, **point.evaluation.as_dict()}
