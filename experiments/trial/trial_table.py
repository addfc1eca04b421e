"""The tables of a fair trial: one for each level of retention, and who beat whom."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experiments.trial.method_summary import (
    COMPARED,
    FIGURES,
    MOST_APART,
    MethodSummary,
    PairedDifference,
    Verdict,
    developed_on,
    difference_text,
    half_width,
)
from experiments.trial.seed_result import EDGE, SeedResult
from experiments.trial.selection import BASELINES, Selected
from experiments.trial.within_seed import admission_table, seed_tables
from hcnr.demo.table import markdown, terminal

_HEADS = tuple(f"{figure} vs {baseline}" for baseline in ("int.*", "tun.**") for figure in COMPARED)
_WORDS: tuple[tuple[Verdict, str], ...] = (
    ("better", "better"),
    ("worse", "worse"),
    ("undecided", "not told apart"),
)
_KEPT = "of the gain in likelihood kept"
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
    def references(self) -> list[MethodSummary]:
        """Rows of the models that nobody had to choose."""
        return [
            MethodSummary.of_metrics(
                name, [one.references[name]["evaluated"] for one in self.results]
            )
            for name in self.results[0].references
        ]

    def methods(self, level: float) -> list[MethodSummary]:
        """Rows of all methods at a level."""
        rows = []
        for name in self.results[0].method_results:
            selections = self._selections(name, level)
            baselines = {
                baseline: [
                    None if one is None else one.baselines.get(baseline) for one in selections
                ]
                for baseline in BASELINES
            }
            rows.append(MethodSummary.of_selections(name, selections, baselines))
        return rows

    def verdicts(self, level: float) -> list[str]:
        """Who beats which baseline at a level, who loses, who cannot be told apart, in words."""
        sentences = []
        for baseline in BASELINES:
            differences = self._differences(level, baseline)
            for head, figure in COMPARED.items():
                if differences:
                    what = head.replace("delta", "Refusal delta")
                    words = _sorted_out(differences, figure)
                    sentences.append(f"{what} against {baseline} at {level:g} %: {words}.")
        again = [name for name in self.results[0].method_results if self._repeats(name, level)]
        if again:
            sentences.append(
                f"Left out, because they sent in the same models as at a higher level: "
                f"{_names(again)}."
            )
        absent = [row.name for row in self.methods(level) if not row.seeds]
        if absent:
            sentences.append(
                f"No candidate of {_names(absent)} kept {level:g} % and told better than the tuned "
                "model what it does not know, on the validation questions of any seed."
            )
        return sentences

    @property
    def comparisons(self) -> int:
        """How many intervals the verdicts of all levels look at."""
        return sum(
            difference.comparable and half_width(difference.of(figure)) is not None
            for level in self.levels
            for baseline in BASELINES
            for difference in self._differences(level, baseline).values()
            for figure in COMPARED.values()
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        """Heads of the columns; what responses on the task are evaluated by differs by world."""
        figure = self.results[0].facts["arena"].get("task_figure")
        return tuple(figure if figure and one == "exact" else one for one in COLUMNS)

    @property
    def _measured(self) -> str:
        figure = self.results[0].facts["arena"].get("task_figure")
        if figure is None:
            return "exact: task questions answered exactly right"
        return f"{figure}: of the responses on the task"

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        first = self.results[0]
        seeds = [one.seed for one in self.results]
        n = len(seeds)
        sizes = f"{first.facts['arena']['parameters'] / 1e6:.2f} M parameter models"
        tries = ", ".join(
            f"{name!r} {len(one.candidates)}" for name, one in first.method_results.items()
        )
        notes = [
            f"World {self.world}, {n} seed{'s' if n > 1 else ''} ({', '.join(map(str, seeds))}), "
            f"{sizes}: leads, not claims. Figures in percent, s in seconds of the processor, one "
            "thread.",
            *developed_on(self.world, seeds),
            f"Settings tried: {tries}. On the validation questions of a seed each way chose the "
            "best refusal delta among those that keep at least the level and have a delta above "
            "the tuned model's; that one was judged on other questions, by which nothing is "
            "chosen. What it keeps there (kept) may come out lower than the level.",
            "kept: share of the fine-tuning's gain in likelihood of held-out task answers; "
            f"{self._measured}; ref. ans.: refusals of answerable questions; "
            "s: to make that one model, measuring and training included.",
            "seeds: in how many a setting qualified. The figures of a row are means over those, so "
            "rows with different seeds are not to be compared by eye. The paired columns are over "
            "the seeds in which both the row and its rival qualify, n of them where that is fewer "
            "than the row's.",
            "* and **: minus interpolation's figure (int.), and that of fine-tuning back on the "
            "same samples (tun., the candidates of its ways taken together), seed by seed. For "
            "each row the rival is chosen anew, by the same rule, among those of its candidates "
            "that keep at least as much as the row does on the validation questions; where none "
            "qualifies, the rival is the tuned model itself. Where the two still keep more than "
            f"{MOST_APART:g} points apart on the evaluated questions, nothing is said in words; "
            "where the interval holds 0 nothing is claimed.",
            "Refusing more of everything can raise F1; it raises the delta only as far as it tells "
            "the two kinds apart.",
        ]
        if n > 1:
            notes.append(
                "±: half of the 95 % interval over the seeds of that cell (Student's t); so few "
                f"seeds make it wide. This page makes {self.comparisons} comparisons in words and "
                "corrects none for their number: were there no difference anywhere, about one in "
                "twenty would exclude 0 by chance."
            )
        else:
            notes.append("One seed has no interval over seeds, and decides nothing about others.")
        return notes

    def to_rich(self) -> Group:
        """The tables for a terminal of 100 columns."""
        parts: list[Table | Text] = []
        for level in self.levels:
            title = f"Fair trial, {self.world}: at least {level:g} % {_KEPT}"
            lines = self._lines(level, "\n")
            parts.append(terminal(title, self._columns, lines, self.verdicts(level)))
        return Group(*parts, Text("\n".join(self.notes), style="dim"))

    def to_markdown(self) -> str:
        """The tables for a README, the settings that were chosen, and the notes."""
        parts = []
        for level in self.levels:
            lines = self._lines(level, " ")
            parts.append(f"### At least {level:g} % {_KEPT}\n")
            parts.append(markdown(self._columns, lines, self.verdicts(level)))
        heads = ("settings chosen", *(f"seed {one.seed}" for one in self.results))
        for level in self.levels:
            lines = [
                ((name, *(one.method_results[name].settings(level) for one in self.results)), False)
                for name in self.results[0].method_results
            ]
            parts.append(f"### Settings at {level:g} %\n")
            parts.append(markdown(heads, lines, []))
        parts.append(f"{EDGE}\n")
        parts += self._seed_by_seed()
        title = f"## Fair trial, {self.world} world\n"
        return "\n".join([title, *parts, *(f"{note}\n" for note in map(_plain, self.notes))])

    def as_dict(self) -> dict[str, Any]:
        """Everything, every candidate of every seed included, for JSON."""
        return {
            "world": self.world,
            "seeds": [one.seed for one in self.results],
            "levels": list(self.levels),
            "interval": {"level": 95, "method": "Student's t over seeds", "half_width": True},
            "ends": [row.as_dict() for row in self.references],
            "tables": {
                f"{level:g}": {
                    "ways": [row.as_dict() for row in self.methods(level)],
                    "verdicts": self.verdicts(level),
                }
                for level in self.levels
            },
            "by_seed": [
                {"seed": result.seed, "level": one.level, "rows": one.rows()}
                for result in self.results
                for one in seed_tables(result, self.levels)
            ],
            "comparisons": self.comparisons,
            "notes": self.notes,
            "results": [one.as_dict() for one in self.results],
        }

    def _seed_by_seed(self) -> list[str]:
        """What each seed shows by itself, with the sets that took part in it."""
        parts = []
        for result in self.results:
            if tables := seed_tables(result, self.levels):
                admission = admission_table(result.facts["arena"]["admission"])
                parts += [f"### Seed {result.seed}, which sets take part\n", admission]
                parts += [one.to_markdown() for one in tables]
        if parts:
            parts.append(
                "In brackets: 95 % intervals over the questions of that seed (paired bootstrap); "
                "they tell the models of one pair apart, not the ways of all pairs.\n"
            )
        return parts

    def _selections(self, name: str, level: float) -> list[Selected | None]:
        return [one.method_results[name].selections[level] for one in self.results]

    def _repeats(self, name: str, level: float) -> bool:
        """Whether a method selects the models of a higher level, in every seed."""
        return all(one.method_results[name].repeats(level) for one in self.results)

    def _differences(self, level: float, baseline: str) -> dict[str, PairedDifference]:
        """Method -> how it compares with a baseline, where no higher level has said so."""
        return {
            row.name: row.differences[baseline]
            for row in self.methods(level)
            if baseline in row.differences and not self._repeats(row.name, level)
        }

    def _lines(self, level: float, between: str) -> list[tuple[list[str], bool]]:
        rows = [*self.references, *self.methods(level)]
        return [(row.cells(tuple(BASELINES), between), False) for row in rows]


def _sorted_out(differences: Mapping[str, PairedDifference], figure: str) -> str:
    """Who is better, who is worse, who cannot be told apart, and who is not compared."""
    verdicts = {name: difference.verdict(figure) for name, difference in differences.items()}
    parts = []
    for kind, words in _WORDS:
        names = [
            f"{name!r}"
            if kind == "undecided"
            else f"{name!r} ({difference_text(difference.of(figure))})"
            for name, difference in differences.items()
            if verdicts[name] == kind
        ]
        parts.append(f"{words}: {', '.join(names) or 'no way'}")
    apart = [
        f"{name!r} ({difference.apart})"
        for name, difference in differences.items()
        if verdicts[name] == "not compared"
    ]
    if apart:
        parts.append(f"not compared: {', '.join(apart)}")
    return "; ".join(parts)


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _plain(note: str) -> str:
    return note.replace("*", r"\*")
