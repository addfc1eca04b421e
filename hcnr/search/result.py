"""What a sweep found: as Python values, as `sweep.json`, as a table."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.choosing.front import Gain, Scores, pareto_front, rival
from hcnr.choosing.recommendation import Recommendation, recommend
from hcnr.record.files.sweep import SweepChoice, SweepRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Candidate:
    """One configuration that was tried.

    Attributes:
        settings: in which it differs from the others, under the names of `RestoreConfig`.
        scores: how it did.
        neurons: how many were restored.
        seconds: what compensating and applying it added; a candidate that holds the one before it
            pays for the difference only.
        name: its row in the ablation, empty elsewhere.
        refined: whether it was tried because it lies near the best of the grid.
    """

    settings: dict[str, Any]
    scores: Scores
    neurons: int
    seconds: float
    name: str = ""
    refined: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        named = {"name": self.name} if self.name else {}
        return {
            **named,
            "settings": self.settings,
            **self.scores.as_dict(),
            "neurons": self.neurons,
            "seconds": self.seconds,
            "refined": self.refined,
        }


@dataclass
class SweepResult:
    """Everything that a sweep has found so far.

    Attributes:
        base: scores of the honest model.
        tuned: scores of the fine-tuned model.
        max_accuracy_drop: points of task accuracy that the recommendation may give up.
        config: all settings that the candidates share.
        candidates: in the order in which they were tried.
        interpolation: the rival: coefficient (0 tuned, 1 base) and scores.
        ablation: rows of the ablation.
        refuse_all: what refusing every question would score; None where the evaluation does not
            tell.
        cost: seconds by kind of work, evaluation apart; `one_restoration` and `ratio` only where
            this sweep measured.
        validation: the sets of questions behind the scores, with their detectors; empty where a
            function gave the scores.
        validation_settings: what else the answers to them depend on.
        pair: names and fingerprints of both models.
        data: of each measured data set: samples, hashes, what was cut.
        versions: of hcnr and the libraries that decide the numbers.
        messages: what a reader should know.
        complete: False in the file of a run that was interrupted.
    """

    base: Scores
    tuned: Scores
    max_accuracy_drop: float
    config: dict[str, Any]
    candidates: list[Candidate] = field(default_factory=list)
    interpolation: list[tuple[float, Scores]] = field(default_factory=list)
    ablation: list[Candidate] = field(default_factory=list)
    refuse_all: Scores | None = None
    cost: dict[str, float | None] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    validation_settings: dict[str, Any] = field(default_factory=dict)
    pair: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def max_task_drop(self) -> float:
        """The former name of `max_accuracy_drop`."""
        return self.max_accuracy_drop

    @property
    def pareto(self) -> list[bool]:
        """Which candidates no other candidate dominates."""
        return pareto_front([candidate.scores for candidate in self.candidates])

    @property
    def recommendation(self) -> Recommendation:
        """Which candidate to take, and why; or that interpolation does as well."""
        scores = [candidate.scores for candidate in self.candidates]
        return recommend(scores, self.tuned, self.max_accuracy_drop, self._curve)

    @property
    def _curve(self) -> list[tuple[float, Scores]]:
        """Interpolation from tuned to base; empty where none was tried."""
        if not self.interpolation:
            return []
        return [(0.0, self.tuned), *self.interpolation, (1.0, self.base)]

    def rival(self, scores: Scores) -> Scores | None:
        """Plain interpolation of best delta at no lower a task accuracy; None without any."""
        curve = [point for _, point in self._curve]
        best = rival(curve, scores.task_accuracy)
        return None if best is None else curve[best]

    def as_dict(self) -> dict[str, Any]:
        """What `sweep.json` holds, see `SweepRecord`; undefined figures are None."""
        chosen = self.recommendation
        settings = None if chosen.index is None else self.candidates[chosen.index].settings
        content = {
            "complete": self.complete,
            "candidates": [
                {
                    **candidate.as_dict(),
                    "pareto": on_front,
                    "recommended": index == chosen.index,
                    "gain": Gain.between(candidate.scores, self.tuned),
                    "interpolation_delta": None if rival is None else rival.refusal_delta,
                    "interpolation_f1": None if rival is None else rival.honesty_f1,
                }
                for index, (candidate, on_front) in enumerate(
                    zip(self.candidates, self.pareto, strict=True)
                )
                for rival in [self.rival(candidate.scores)]
            ],
            "interpolation": [
                {"coefficient": share, **scores.as_dict()} for share, scores in self.interpolation
            ],
            "tuned": self.tuned.as_dict(),
            "base": self.base.as_dict(),
            "refuse_all": None if self.refuse_all is None else self.refuse_all.as_dict(),
            "recommended": SweepChoice.by(
                chosen.decision, settings=settings, coefficient=chosen.coefficient,
                gain=chosen.gain, reason=chosen.reason,
            ),
            "max_accuracy_drop": self.max_accuracy_drop,
            "cost": self.cost,
            "ablation": [row.as_dict() for row in self.ablation],
            "config": self.config,
            "validation": self.validation,
            "validation_settings": self.validation_settings,
            "pair": self.pair,
            "data": self.data,
            "versions": self.versions,
            "messages": self.messages,
        }  # fmt: skip
        return SweepRecord.model_validate(content).as_dict()

    def save(self, path: Path) -> None:
        """Write `sweep.json`, the former one replaced whole.

        Raises:
            OutputError: the place cannot be written to.
        """
        from hcnr.checkpoint import atomic_file

        text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
        with atomic_file(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def print_sweep(result: SweepResult, console: "Console") -> None:
    """Print the candidates, the ablation, the recommendation and the cost."""
    say = partial(console.print, highlight=False, markup=False)
    console.print(_candidates_table(result))
    if result.interpolation:
        points = ((f"{share:g}", scores) for share, scores in result.interpolation)
        console.print(_short_table("Interpolation", result, points))
    if result.ablation:
        rows = ((row.name, row.scores) for row in result.ablation)
        console.print(_short_table("Ablation", result, rows))
    refined = sum(candidate.refined for candidate in result.candidates)
    grid = len(result.candidates) - refined
    say(f"tried: {grid} configurations of the grid, and {refined} near the best of them")
    for line in advice(result):
        say(line)
    parts = ("measure", "select", "compensate", "apply", "evaluate")
    say("seconds: " + ", ".join(f"{name} {result.cost[name]:.2f}" for name in parts))
    if (ratio := result.cost["ratio"]) is not None:
        say(
            f"{len(result.candidates) + len(result.ablation)} restored models cost {ratio:.2f} "
            "times one restoration (this sweep's own measuring pass plus its dearest candidate), "
            "evaluation apart"
        )
    for message in result.messages:
        say(f"note: {message}")


def advice(result: SweepResult) -> list[str]:
    """What to do, with which settings, and why, a line each."""
    chosen = result.recommendation
    if chosen.coefficient is not None:
        what = f"{chosen.word}: coefficient {chosen.coefficient:g} (0 is tuned, 1 is base)"
    else:
        what = {"do not use": "do not use any of these candidates"}.get(chosen.word, chosen.word)
    lines = [f"recommendation: {what}", f"because: {chosen.reason}"]
    if chosen.index is not None:
        options = as_options(result.candidates[chosen.index].settings)
        if chosen.word == "use":
            lines[0] += f": {options}"
        else:
            lines.insert(1, f"best candidate: {options}")
    return lines


def as_options(settings: dict[str, Any]) -> str:
    """Settings as `hcnr restore` takes them."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())


_NOTES = (
    "In percent. delta, which decides: refusals of unanswerable minus those of answerable "
    "questions. *: no other candidate is at least as good in delta and task. +: tried near the "
    "best of the grid. rival: best delta of plain interpolation of all weights that keeps as much "
    "of the task. false: answerable questions that are refused. Refusing everything has delta 0."
)
_FIGURES = ("delta", "F1", "false", "task", "rival")


def _table(title: str, *heads: str) -> "Table":
    from rich import box
    from rich.table import Table

    # No vertical lines and no edges: with them the table does not fit into 80 columns.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.padding, table.collapse_padding, table.pad_edge = (0, 1, 0, 0), True, False
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    return table


def _figures(result: SweepResult, scores: Scores) -> list[str]:
    best = result.rival(scores)
    false = scores.refusal_rate_answerable
    rival = None if best is None else best.refusal_delta
    numbers = (scores.refusal_delta, scores.honesty_f1, false, scores.task_accuracy, rival)
    # Only an undefined figure differs from itself.
    return ["-" if number is None or number != number else f"{number:.1f}" for number in numbers]


def _brief(seconds: float) -> str:
    """Seconds in three characters, minutes with an m from 1000 on: the table has no more room."""
    if seconds < 9.95:
        return f"{seconds:.1f}"
    return f"{seconds:.0f}" if seconds < 999.5 else f"{seconds / 60:.0f}m"


def _candidates_table(result: SweepResult) -> "Table":
    detectors = dict.fromkeys(found["detector"] for found in result.validation.values())
    judged = f", refusals by {', '.join(detectors)}" if detectors else ""
    table = _table(
        f"Sweep, {result.config['axis']} axis{judged}",
        "kind", "mu", "in", "cross", *_FIGURES, "neurons", "s", "",
    )  # fmt: skip
    ends = [("base", result.base), ("tuned", result.tuned)]
    if result.refuse_all is not None:
        ends.append(("refuse all", result.refuse_all))
    for name, scores in ends:
        table.add_row(name, "", "", "", *_figures(result, scores))
    chosen = result.recommendation
    recommended = chosen.index if chosen.word == "use" else None
    for index, (row, on_front) in enumerate(zip(result.candidates, result.pareto, strict=True)):
        settings = row.settings
        table.add_row(
            settings["compensation"] + ("+" if row.refined else ""),
            f"{settings['task_weight']:g}" if "task_weight" in settings else "",
            f"{settings['in_weight_ratio']:g}" if "in_weight_ratio" in settings else "",
            f"{settings['cross_weight_ratio']:g}",
            *_figures(result, row.scores),
            f"{row.neurons}",
            _brief(row.seconds),
            "*" if on_front else "",
            style="bold green" if index == recommended else None,
        )
    table.caption, table.caption_justify = _NOTES, "left"
    return table


def _short_table(title: str, result: SweepResult, rows: Iterable[tuple[str, Scores]]) -> "Table":
    table = _table(title, "", *_FIGURES)
    for name, scores in rows:
        table.add_row(name, *_figures(result, scores))
    return table
