"""What a sweep found, as a table and as advice."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from hcnr.choosing.front import Scores
from hcnr.output import say
from hcnr.search.result import SweepResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_sweep(result: SweepResult, console: "Console") -> None:
    """Print the candidates, the ablation, the recommendation and the cost."""
    tell = partial(say, console)
    console.print(_candidates_table(result))
    if result.interpolation:
        points = ((f"{share:g}", scores) for share, scores in result.interpolation)
        console.print(_short_table("Interpolation", result, points))
    if result.ablation:
        rows = ((row.name, row.scores) for row in result.ablation)
        console.print(_short_table("Ablation", result, rows))
    refined = sum(candidate.refined for candidate in result.candidates)
    grid = len(result.candidates) - refined
    tell(f"tried: {grid} configurations of the grid, and {refined} near the best of them")
    tell(*advice(result))
    parts = ("measure", "select", "compensate", "apply", "evaluate")
    tell("seconds: " + ", ".join(f"{name} {result.cost[name]:.2f}" for name in parts))
    if (ratio := result.cost["ratio"]) is not None:
        tell(
            f"{len(result.candidates) + len(result.ablation)} restored models cost {ratio:.2f} "
            "times one restoration (this sweep's own measuring pass plus its dearest candidate), "
            "evaluation apart"
        )
    tell(*(f"note: {message}" for message in result.messages))


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
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
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
    detectors = dict.fromkeys(facts["detector"] for facts in result.validation.values())
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
