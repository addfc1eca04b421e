"""Tables for people at a terminal."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hcnr.output import say
from hcnr.output.bars import duration
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.files.restoration import AGAIN, DataRecord, Interpolated, RestorationRecord
from hcnr.record.files.two_sided import TwoSidedRecord
from hcnr.record.form_text import adapter_sentence, adapter_table, patch_sentence
from hcnr.record.interpolation_text import key_facts as mixing_facts
from hcnr.record.interpolation_text import search_sentence as mixing_search
from hcnr.record.two_sided_text import key_facts, search_sentence

if TYPE_CHECKING:
    from hcnr.plan import Plan


def print_report(
    report: RestorationRecord | Mapping[str, Any], console: Console, *, most: int = 12
) -> None:
    """Print what a restoration did: summary, the most perturbed matrices, warnings."""
    report = RestorationRecord.of(report, "the report", AGAIN)
    if (mix := report.interpolation) is not None:
        _print_mixing(report, mix, console)
        return
    summary, config = report.summary, report.config
    two = report.repair
    names = [record.name for record in report.matrices]
    prefix = _common_parents(names)
    whole = two if two is not None and two.whole else None
    title = f"{'Repaired' if whole else 'Restored'} matrices{f' ({prefix}. ...)' if prefix else ''}"
    wide = console.width >= 100
    heads, cells = _matrix_columns(whole, wide) if whole else _neuron_columns(wide)
    table = _numbers(title, "matrix", *heads, no_wrap=True)
    ranked = sorted(report.matrices, key=lambda record: -record.perturbation)
    for record in ranked[:most]:
        table.add_row(record.name.removeprefix(f"{prefix}."), *cells(record))
    if len(ranked) > most:
        table.add_row(f"and {len(ranked) - most} more")
    console.print(table)
    share = summary.restored_parameters / max(summary.target_parameters, 1)
    rows = [
        ("matrices", f"{summary.selected_matrices} of {summary.target_matrices}"),
        ("neurons", f"{summary.restored_neurons:,} along the {config.axis} axis"),
        ("parameters", f"{summary.restored_parameters:,} ({share:.1%} of the targets)"),
        ("compensation", config.compensation),
        ("half overlap", f"{_percent(summary.mean_half_overlap)} of the candidates "
                         f"({_percent(summary.half_overlap_by_chance)} by chance), "
                         f"{_percent(summary.selected_overlap)} of the restored neurons"),
        ("largest damping", _short(summary.largest_damping)),
        ("largest condition", _short(summary.largest_condition)),
        _seconds_row(report),
    ]  # fmt: skip
    if whole:
        rows = [row for row in rows if row[0] not in ("neurons", "half overlap")]
    rows[:0] = _data_rows(report)
    if two is not None:
        at = [name for name, _ in rows].index("compensation") + 1
        sentences = [("search", search_sentence(two))] if two.search else []
        rows[at:at] = [*key_facts(two).items(), *sentences]
    console.print(_pairs(rows))
    if adapter := report.adapter:
        print_table(*adapter_table(adapter), console)
        say(console, adapter_sentence(adapter))
    _print_end(report, console)


def _print_mixing(report: RestorationRecord, mix: Interpolated, console: Console) -> None:
    """Print what an interpolation did: its coefficient, and how it was found."""
    rows = [*_data_rows(report), ("compensation", "interpolate"), *mixing_facts(mix).items()]
    if mix.search:
        rows.append(("search", mixing_search(mix)))
    rows.append(_seconds_row(report))
    console.print(_pairs(rows))
    _print_end(report, console)


def _print_end(report: RestorationRecord, console: Console) -> None:
    """Print what every restoration ends with: its form, warnings, losses and the verdict."""
    if patch := report.patch:
        say(console, patch_sentence(patch))
    say(console, *(f"note: {warning}" for warning in report.warnings))
    say(console, *(report.verdict.lines if report.verdict else [NO_LOSSES]))


def _data_rows(report: RestorationRecord) -> list[tuple[str, str]]:
    return [
        (f"{name} data", _data_line(facts)) for name, facts in report.data.items() if facts.format
    ]


def _seconds_row(report: RestorationRecord) -> tuple[str, str]:
    return "seconds", ", ".join(f"{name} {s:.2f}" for name, s in report.seconds.items())


def print_data(data: Mapping[str, Any], console: Console) -> None:
    """Print a line for each data set: how many of its samples are used, and how it was read."""
    for name, content in data.items():
        if (facts := DataRecord.of(content, f"the {name} data", AGAIN)).format:
            say(console, f"{name}: {_data_line(facts)}", soft_wrap=True)


def _data_line(facts: DataRecord) -> str:
    used = f"{facts.samples} of {facts.available} samples of {facts.source}"
    return f"{used}, read as {facts.format}"


NO_LOSSES = (
    "no losses: what a repair keeps is told by --honesty and --task data that both models can read"
)

Columns = tuple[Sequence[str], Callable[[MatrixRecord], Sequence[str]]]
"""Heads of a table, and its cells by the record of a matrix; without its name."""


def _neuron_columns(wide: bool) -> Columns:
    numbers = ("damping", "condition") if wide else ()

    def cells(record: MatrixRecord) -> list[str]:
        ratio = record.objective_ratio
        return [
            f"{record.restored} / {record.neurons}",
            f"{record.perturbation:.3g}",
            _percent(record.half_overlap),
            *(_short(getattr(record, number)) for number in numbers),
            "-" if ratio is None else f"{ratio:.2f}x",
        ]

    return ("neurons", "perturbation", "overlap", *numbers, "honesty objective"), cells


def _matrix_columns(two: TwoSidedRecord, wide: bool) -> Columns:
    spectral = two.restored_share is not None

    def cells(record: MatrixRecord) -> list[str]:
        matrix = two.matrices.get(record.name)
        row = [f"{record.perturbation:.3g}"]
        if matrix is None:
            return row
        shares = [matrix.restored_share] if spectral else []
        shares += [matrix.honesty_left, matrix.task_lost]
        texts = ("-" if share is None else f"{share:.1%}" for share in shares)
        worse = max((c for c in matrix.condition if c is not None), default=None)
        return [*row, *texts, *([_short(worse)] if wide else [])]

    numbers = ("condition",) if wide else ()
    restored = ("restored",) if spectral else ()
    return ("perturbation", *restored, "honesty left", "task lost", *numbers), cells


def print_plan(plan: "Plan", console: Console) -> None:
    """Print a plan: matrices by role, then bytes and operations by stage."""
    kinds = _numbers(
        f"{plan.matrices} target matrices, {plan.selected} will be restored",
        "matrix", "count", "shape", "neurons", "candidates",
    )  # fmt: skip
    for kind in plan.kinds:
        shape = f"{kind.shape[0]} x {kind.shape[1]}"
        kinds.add_row(kind.role, str(kind.count), shape, str(kind.neurons), str(kind.candidates))
    console.print(kinds)
    stages = _numbers(
        f"Stages, {plan.tokens:,} tokens per data set",
        "stage", "read", "written", "in memory", "operations", "about",
    )  # fmt: skip
    for stage in plan.stages:
        stages.add_row(
            stage.name + (f", {stage.detail}" if stage.detail else ""),
            human(stage.read, "B"),
            human(stage.written, "B"),
            human(stage.held, "B"),
            human(stage.flops, "flop"),
            "" if stage.seconds is None else duration(stage.seconds),
        )
    console.print(stages)
    say(console, *(f"note: {message}" for message in plan.messages))


def _numbers(title: str, first: str, *heads: str, no_wrap: bool = False) -> Table:
    """A table of numbers, flush right, whose first column names the row."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=no_wrap)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def print_table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]],
                console: Console) -> None:  # fmt: skip
    """Print a plain table of strings."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def human(number: float, unit: str) -> str:
    """`1.5 GB` for 1.5e9; a dash for zero."""
    if not number:
        return "-"
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 1000 or prefix == "P":
            digits = 0 if prefix == "" else 1
            return f"{number:.{digits}f} {prefix}{unit}"
        number /= 1000
    raise AssertionError("unreachable")


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _common_parents(names: list[str]) -> str:
    """What all dotted names begin with: `model.layers` of `model.layers.3.mlp.up_proj`."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = itertools.takewhile(lambda level: len(set(level)) == 1, parts)
    return ".".join(level[0] for level in common)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
