"""The charts of a report; those of the evaluation, the probe and the stages are made here."""

from collections.abc import Iterable, Sequence

from hcnr.record.files.evaluation import ModelScores, Scored
from hcnr.record.files.probe import AurocRecord, BlockRecord
from hcnr.record.numbers import NONE, fixed, with_interval
from hcnr.record.tables import Table
from hcnr.report.drawing.charts import (
    Chart,
    ChartRow,
    Curve,
    CurvePoint,
    Mark,
    PlaneChart,
    Role,
    RowChart,
)
from hcnr.report.figures.matrices import (
    condition,
    damping,
    objective_chart,
    perturbation_map,
    restored_share,
    score_distributions,
)
from hcnr.report.figures.spectrum import spectrum, spectrum_by_matrix
from hcnr.report.figures.sweep import trade_off
from hcnr.report.figures.whole_matrices import condition_by_axis, restored_directions, terms
from hcnr.report.gather import Run

CALIBRATION = {"calibration error": ("ece", ".1f"), "AUROC": ("auroc", ".3f")}
"""Columns of an evaluation with calibration: where they stand, and how they are written."""


def all_charts(run: Run) -> dict[str, Chart]:
    """Every chart that the run has the numbers for, by key, in the order of the page."""
    charts = (
        honesty_by_set(run),
        task_by_set(run),
        trade_off(run),
        probe_curves(run),
        restored_share(run),
        spectrum(run),
        spectrum_by_matrix(run),
        restored_directions(run),
        terms(run),
        perturbation_map(run),
        score_distributions(run),
        objective_chart(run),
        condition(run),
        damping(run),
        condition_by_axis(run),
        stage_times(run),
    )
    return {chart.key: chart for chart in charts if chart is not None}


def _models(run: Run) -> list[tuple[Role, ModelScores]]:
    known: list[tuple[Role, ModelScores | None]] = [
        ("base", run.base), ("before", run.before), ("after", run.after),
    ]  # fmt: skip
    return [(role, scores) for role, scores in known if scores is not None]


def honesty_by_set(run: Run) -> Chart | None:
    """Refusal delta of every set, before and after, with intervals."""
    models, words = _models(run), run.evaluation.words
    names = list(dict.fromkeys(name for _, scores in models for name in scores.sets))
    entries = [entry for _, scores in models for entry in scores.sets.values()]
    calibration = CALIBRATION if any(entry.calibration for entry in entries) else {}
    rows, cells = [], []
    for name in names:
        marks = []
        for role, scores in models:
            if (entry := scores.sets.get(name)) is None:
                continue
            delta, span = entry.refusal_delta, entry.ci95.get("refusal_delta")
            if delta is not None:
                note = f"{name}, {scores.name}: delta {with_interval(delta, span, '+.1f')}"
                marks.append(Mark(role, delta, note, span))
            cells.append(_set_cells(name, scores.name, entry, calibration.values()))
        rows.append(ChartRow(name, marks))
    if not any(row.marks for row in rows):
        return None
    heads = (
        "set", "model", "n", "refusal delta", f"refused, {words.positive}",
        f"refused, {words.negative}", "F1", f"right, {words.negative}", "empty", *calibration,
        "detector",
    )  # fmt: skip
    return RowChart(
        key="honesty",
        title="Refusal delta by benchmark",
        description=f"Refusals of {words.positive} minus those of {words.negative} questions, in "
        "points: the higher the better, 0 for a model that refuses everything. Lines are 95% "
        "bootstrap intervals.",
        table=Table(heads, cells, ("model", "detector")),
        rows=rows,
        axis="refusal delta, points",
        legend=[(role, scores.name) for role, scores in models],
        numbers="+.1f",
    )


def _set_cells(
    name: str, model: str, entry: Scored, calibration: Iterable[tuple[str, str]]
) -> list[str]:
    rates = {
        "refusal_delta": "+.1f", "refusal_rate_unanswerable": ".1f",
        "refusal_rate_answerable": ".1f", "f1": ".1f", "accuracy_answerable": ".1f",
    }  # fmt: skip
    numbers = (
        with_interval(getattr(entry, key), entry.ci95.get(key), pattern)
        for key, pattern in rates.items()
    )
    further = (
        fixed(getattr(entry.calibration, key, None), pattern) for key, pattern in calibration
    )
    n, empty = (fixed(count, ",.0f") for count in (entry.n, entry.empty))
    return [name, model, n, *numbers, empty, *further, entry.detector or NONE]


def task_by_set(run: Run) -> Chart | None:
    """Accuracy on every task set."""
    models = _models(run)
    names = list(dict.fromkeys(name for _, scores in models for name in scores.tasks))
    rows, cells = [], []
    for name in names:
        marks = []
        for role, scores in models:
            entry = scores.tasks.get(name, Scored())
            value, span = entry.accuracy, entry.ci95.get("accuracy")
            if value is not None:
                note = f"{name}, {scores.name}: {with_interval(value, span)}% right"
                marks.append(Mark(role, value, note, span))
                n = fixed(entry.n, ",.0f")
                cells.append([name, scores.name, n, with_interval(value, span)])
        rows.append(ChartRow(name, marks))
    if not cells:
        return None
    return RowChart(
        key="task",
        title="Accuracy on the task",
        description="What the model was fine-tuned for: it should not move much. Lines are 95% "
        "bootstrap intervals.",
        table=Table(("set", "model", "n", "accuracy"), cells, ("model",)),
        rows=rows,
        axis="accuracy, %",
        legend=[(role, scores.name) for role, scores in models],
        numbers=".1f",
    )


PROBES: tuple[tuple[Role, str, str], ...] = (
    ("base", "base", "trained and tested on base"),
    ("after", "transfer", "trained on base, applied to tuned"),
    ("before", "tuned", "trained and tested on tuned"),
)


def probe_curves(run: Run) -> Chart | None:
    """AUROC of the linear probes by block."""
    return probe_chart(run.probe.blocks if run.probe else [])


def probe_chart(blocks: Sequence[BlockRecord]) -> Chart | None:
    """The same of the blocks of a `probe.json`; None where there are none."""
    curves = []
    for role, key, label in PROBES:
        points = []
        for entry in blocks:
            auroc: AurocRecord = getattr(entry, key)
            note = f"block {entry.block}, {label}: {_auroc_text(auroc)}"
            points.append(
                CurvePoint(float(entry.block), auroc.auroc, note, (auroc.low, auroc.high))
            )
        if points:
            curves.append(Curve(role, label, points, line=True))
    if not curves:
        return None
    rows = [
        [str(entry.block), *(_auroc_text(getattr(entry, key)) for _, key, _ in PROBES),
         fixed(entry.cosine, ".2f")]
        for entry in blocks
    ]  # fmt: skip
    return PlaneChart(
        key="probe",
        title="Does the model still tell known from unknown?",
        description="Held-out AUROC of linear probes on the last prompt token, by block; 0.5 is "
        "chance. Bands are 95% intervals. A high transfer means that fine-tuning left the "
        "knowledge boundary in place.",
        table=Table(("block", "base", "transfer", "tuned", "cosine"), rows),
        curves=curves,
        x_axis="block",
        y_axis="AUROC",
        whole_x=True,
    )


def _auroc_text(auroc: AurocRecord) -> str:
    return with_interval(auroc.auroc, (auroc.low, auroc.high), ".3f")


def stage_times(run: Run) -> Chart | None:
    """Seconds of every stage."""
    known = run.report.seconds
    if not known:
        return None
    total = sum(known.values()) or 1.0
    return RowChart(
        key="times",
        title="Time by stage",
        description=f"Seconds of wall clock, {sum(known.values()):.3g} in all.",
        table=Table(
            ("stage", "seconds", "share"),
            [[name, f"{value:.3f}", f"{value / total:.0%}"] for name, value in known.items()],
        ),
        rows=[
            ChartRow(name, [Mark("after", value, f"{name}: {value:.3g} s")])
            for name, value in known.items()
        ],
        axis="seconds",
        bars=True,
        numbers=".3g",
    )
