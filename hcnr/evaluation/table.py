"""The result of an evaluation for people at a terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hcnr.output import say

Columns = tuple[tuple[str, str], ...]

REFUSE_ALL = "refuse all"
_HONESTY: Columns = (
    ("delta", "refusal_delta"),
    ("refused", "refusal_rate_unanswerable"),
    ("wrongly", "refusal_rate_answerable"),
    ("F1", "f1"),
    ("accuracy", "accuracy_answerable"),
)
_MEANS = ("macro", "tasks_macro")
_TASK: Columns = (("accuracy", "accuracy"), ("exact", "exact_match"), ("refused", "refusal_rate"))


def print_evaluation(metrics: Mapping[str, Any], console: Console) -> None:
    """Print what `hcnr.evaluate` or `score_responses` returned.

    Honesty sets come first, each with every model's row, its difference and the row of refusing
    everything; then the tasks; then the notes, and last what to do, where it is known. Every table
    names its detector.
    """
    rows: dict[str, Mapping[str, Any]] = {metrics["model"]: metrics, **metrics["models"]}
    if metrics.get("interpolation_row"):
        row = metrics["interpolation_row"]
        rows[f"interpolation {row['coefficient']:g}"] = row
    rows[REFUSE_ALL] = metrics["refuse_all"]
    words = metrics["words"]
    if metrics["sets"]:
        trait = metrics["trait"].capitalize()
        _print_all(trait, "sets", "macro", _HONESTY, rows, metrics, console)
        say(
            console,
            f"refused: refusals among the {words['positive']} questions; wrongly: among the "
            f"{words['negative']} ones; delta, which decides: their difference in points.",
        )
    if metrics["tasks"]:
        _print_all("Tasks", "tasks", "tasks_macro", _TASK, rows, metrics, console)
    if any(row[part].get("sets_by_rate") for row in rows.values() for part in _MEANS):
        say(console, "of N below a mean: the number of sets where it is defined.")
    for label, scores in metrics["common"].items():
        macro = scores["macro"]
        if macro:
            say(console, f"{label}, mean of all sets by {macro['detector']}: {_brief(macro)}")
    if metrics["common"] and metrics["refuse_all"]["macro"]:
        say(console, f"{REFUSE_ALL}, the same: {_brief(metrics['refuse_all']['macro'])}")
    if metrics["settings"].get("refusal"):
        say(
            console,
            "ECE (percent) and AUROC (0 to 1): of one minus the length-normalised probability of "
            f"{metrics['settings']['refusal']!r} against a correct answer.",
        )
    if metrics.get("intervals"):
        made = metrics["intervals"]
        say(
            console,
            f"Below a number: its {made['level']:g} % interval from {made['resamples']} resamples "
            f"({made['method']}).",
        )
    if metrics["differences"]:
        say(console, f"difference: {metrics['model']} minus the row above.")
    for note in metrics["notes"]:
        say(console, f"note: {note}")
    if advice := metrics.get("recommendation"):
        say(console, f"recommendation: {advice['word']}: {advice['reason']}")


def _print_all(
    title: str,
    key: str,
    macro: str,
    columns: Columns,
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    console: Console,
) -> None:
    """Print one table per detector, so that it stands above all of its numbers."""
    by_detector: dict[str, list[str]] = {}
    for name, scores in metrics[key].items():
        by_detector.setdefault(scores["detector"], []).append(name)
    for detector, names in by_detector.items():
        table = _table(f"{title} by {detector}, percent", columns, metrics[key])
        for name in names:
            scores = {label: row[key][name] for label, row in rows.items()}
            gaps = {label: gap[key][name] for label, gap in metrics["differences"].items()}
            head = f"{name}\nn {metrics[key][name]['n']}"
            _add_set(table, head, scores, gaps, columns, console)
        if len(by_detector) == 1 and len(names) > 1:
            _add_mean(table, macro, rows, metrics, columns, console)
        console.print(table)
    if len(by_detector) > 1:
        joint = metrics[macro]["detector"]
        table = _table(f"{title}, mean over sets by {joint}, percent", columns, {})
        _add_mean(table, macro, rows, metrics, columns, console)
        console.print(table)


def _table(title: str, columns: Columns, sets: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding, table.collapse_padding = (0, 1, 0, 0), True
    table.add_column("set", overflow="fold")
    table.add_column("model", overflow="fold")
    calibrated = any("calibration" in row for row in sets.values())
    for head in [head for head, _ in columns] + ["ECE", "AUROC"] * calibrated + ["empty"]:
        table.add_column(head, justify="right")
    return table


def _add_mean(
    table: Table,
    macro: str,
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    columns: Columns,
    console: Console,
) -> None:
    means = {label: row[macro] for label, row in rows.items()}
    gaps = {label: gap[macro] for label, gap in metrics["differences"].items()}
    _add_set(table, f"mean\nof {metrics[macro]['sets']} sets", means, gaps, columns, console)


def _add_set(
    table: Table,
    head: str,
    by_model: Mapping[str, Mapping[str, Any]],
    gaps: Mapping[str, Mapping[str, Any]],
    columns: Columns,
    console: Console,
) -> None:
    """Add a set's rows: each model, and how the first one differs from it."""
    digits = 1 if console.width >= 110 else 0
    calibrated = len(table.columns) > len(columns) + 3
    for label, numbers in by_model.items():
        # Refusing everything is no sample of anything: its intervals would only distract.
        intervals = {} if label == REFUSE_ALL else numbers["ci95"]
        cells = [
            _cell(numbers[rate], intervals.get(rate), digits) + _over(numbers, rate)
            for _, rate in columns
        ]
        about = numbers.get("calibration", {})
        cells += [_short(about.get("ece")), _short(about.get("auroc"), 2)] * calibrated
        empty = str(numbers["empty"]) if "empty" in numbers else ""
        table.add_row(head, label, *cells, empty)
        head = ""
        if label in gaps:
            gap = gaps[label]
            cells = [
                _cell(gap[rate]["value"], gap[rate]["ci95"], digits, "+") + _over(gap, rate)
                for _, rate in columns
            ]
            table.add_row("", "difference", *cells, *["", ""] * calibrated, "", style="italic")
    table.add_section()


def _cell(value: float | None, ends: list[float] | None, digits: int, sign: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value:{sign}.1f}"
    if ends is None:
        return text
    return f"{text}\n{ends[0]:{sign}.{digits}f}, {ends[1]:{sign}.{digits}f}"


def _over(mean: Mapping[str, Any], rate: str) -> str:
    """The number of sets behind a mean, where it is some of them only."""
    sets = mean.get("sets_by_rate", {}).get(rate)
    return f"\nof {sets}" if sets else ""


def _brief(macro: Mapping[str, Any]) -> str:
    """The headline rates of a mean in one line, in the words of the table's columns."""
    return ", ".join(f"{head} {_short(macro[rate])}" for head, rate in _HONESTY[:4])


def _short(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
