"""The charts about matrices: which were restored, and how their numerics went."""

from collections.abc import Callable
from statistics import fmean

from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.numbers import finite, positive, short
from hcnr.record.tables import Table
from hcnr.report.drawing.charts import Cell, Chart, ChartRow, HeatMap, Mark, Role, RowChart
from hcnr.report.figures.positions import RECORDED, Position, grid, group_label, positions, spot
from hcnr.report.gather import Run

SCORED: tuple[tuple[Role, str], ...] = (("after", "honesty"), ("before", "task"))
HONESTY_ALONE = ("sum", "joint")
"""Kinds of compensation that lower the honesty objective alone; balanced serves the task too."""
SHOWN_SCORES = 6
"""Matrices whose score distributions are drawn; the table has all."""


def _kinds(by_matrix: dict[str, Position]) -> list[str]:
    return list(dict.fromkeys(position.kind for position in by_matrix.values()))


def _records(run: Run) -> dict[str, MatrixRecord]:
    return {record.name: record for record in run.report.matrices}


def perturbation_map(run: Run) -> Chart | None:
    """Perturbation of every target matrix by block and kind."""
    # Infinity, where base is all zeros, has no place on a scale.
    known = {name: finite(value) for name, value in run.report.perturbation.items()}
    values = {name: value for name, value in known.items() if value is not None}
    if not values:
        return None
    layout, chosen = grid(values), _records(run)
    cells = {}
    for where, names in layout.groups.items():
        mean = fmean(values[name] for name in names)
        restored = sum(name in chosen for name in names)
        state = "restored" if restored else "left as tuned"
        cells[where] = Cell(mean, f"{group_label(names)}: {mean:.3g}, {state}", restored > 0)
    ranked = sorted(values, key=lambda name: -values[name])
    return HeatMap(
        key="perturbation",
        title="Perturbation by block and matrix",
        description="How far fine-tuning moved each matrix's candidate neurons, relative to their "
        "size. The most perturbed matrices were restored; a dot marks them.",
        table=Table(
            ("matrix", "perturbation", "restored"),
            [[n, f"{values[n]:.4g}", "yes" if n in chosen else ""] for n in ranked],
            weights=[values[n] for n in ranked],
            first=f"the most perturbed{RECORDED}",
        ),
        rows=layout.rows,
        columns=layout.columns,
        cells=cells,
        axis="perturbation",
        columns_axis="block",
        mark="restored",
    )


def restored_share(run: Run) -> Chart | None:
    """Share of neurons restored, by kind of matrix; not where whole matrices were repaired."""
    two = run.report.repair
    if two is not None and two.whole:
        return None
    placed, records = positions(run.report.perturbation), _records(run)
    rows, cells = [], []
    for kind in _kinds(placed):
        names = [name for name, position in placed.items() if position.kind == kind]
        chosen = [records[name] for name in names if name in records]
        restored = sum(record.restored for record in chosen)
        # The report counts the neurons of restored matrices; the others of a kind are alike.
        size = fmean(record.neurons for record in chosen) * len(names) if chosen else 0
        share = 100 * restored / size if size else 0.0
        note = f"{kind}: {share:.1f}% of the neurons, {len(chosen)} of {len(names)} matrices"
        rows.append(ChartRow(kind, [Mark("after", share, note)]))
        cells.append([kind, f"{len(chosen)} of {len(names)}", f"{restored:,}", f"{share:.1f}%"])
    if not rows:
        return None
    return RowChart(
        key="restored",
        title="Share of neurons restored",
        description="By kind of matrix, over all blocks. All other neurons keep their tuned "
        "weights.",
        table=Table(("kind", "matrices", "neurons restored", "share"), cells),
        rows=rows,
        axis="neurons restored, %",
        bars=True,
        numbers=".1f",
    )


def _strip(
    run: Run, value: Callable[[MatrixRecord], float | None], pattern: str,
    alert: Callable[[MatrixRecord], bool],
) -> list[ChartRow]:  # fmt: skip
    """One row per kind, one mark per restored matrix."""
    placed = positions(run.report.perturbation)
    rows: dict[str, list[Mark]] = {}
    for record in run.report.matrices:
        x = value(record)
        if x is None or record.name not in placed:
            continue
        role: Role = "alert" if alert(record) else "after"
        mark = Mark(role, x, f"{spot(record.name)}: {format(x, pattern)}")
        rows.setdefault(placed[record.name].kind, []).append(mark)
    return [ChartRow(kind, rows[kind]) for kind in _kinds(placed) if kind in rows]


def objective_chart(run: Run) -> Chart | None:
    """Honesty objective with compensation as a share of that without."""
    rows = _strip(
        run, lambda record: record.objective_ratio, ".3g",
        lambda record: (record.objective_ratio or 0) > 1,
    )  # fmt: skip
    if not rows:
        return None
    summary = run.report.summary
    kind = run.report.config.compensation
    serves = "" if kind in HONESTY_ALONE else f" {kind} serves the task as well, so it may rise."
    cells = [
        [r.name, short(finite(r.objective_none)), short(finite(r.objective)),
         short(r.objective_ratio)]
        for r in run.report.matrices
    ]  # fmt: skip
    return RowChart(
        key="objective",
        title="Honesty objective after compensation",
        description="As a share of the objective without compensation, one mark per restored "
        "matrix; left of the line is better. Over all matrices it went from "
        f"{short(summary.objective_none)} to "
        f"{short(summary.objective)}.{serves}",
        table=Table(
            ("matrix", "without", "with compensation", "ratio"),
            cells,
            weights=[r.objective_ratio for r in run.report.matrices],
            first=f"the largest ratios{RECORDED}",
        ),
        rows=rows,
        axis="objective with / without compensation",
        legend=[("after", "better than without"), ("alert", "worse than without")],
        strip=True,
        reference=1.0,
    )


def condition(run: Run) -> Chart | None:
    """Condition of the damped curvature of every restored matrix."""
    rows = _strip(
        run,
        lambda record: positive(record.condition),
        ".3g",
        lambda record: record.damping_raised,
    )
    known = [r.condition for r in run.report.matrices if r.condition is not None]
    if not known:
        return None
    beyond = sum(positive(value) is None for value in known)
    cells = [
        [r.name, short(r.condition), short(finite(r.damping)),
         "yes" if r.damping_raised else "", str(r.dead or 0),
         "yes" if r.rank_deficient else "", r.device]
        for r in run.report.matrices
    ]  # fmt: skip
    return RowChart(
        key="condition",
        title="Condition of the curvature",
        description="After damping, one mark per restored matrix. Above a million, rounding may "
        "decide the compensation."
        + (
            f" {beyond} of {len(known)} have no place on the axis; the table has them."
            if beyond
            else ""
        ),
        table=Table(
            ("matrix", "condition", "damping", "raised", "dead neurons", "fewer tokens", "device"),
            cells,
            weights=[r.condition for r in run.report.matrices],
            first=f"the largest estimates{RECORDED}",
        ),
        rows=rows,
        axis="condition estimate",
        legend=[("after", "damping as asked for"), ("alert", "damping raised")],
        strip=True,
        log=True,
    )


def damping(run: Run) -> Chart | None:
    """Damping of every restored matrix, where it is not the same everywhere."""
    used = {finite(record.damping) for record in run.report.matrices} - {None}
    if len(used) < 2:
        return None
    rows = _strip(
        run,
        lambda record: positive(record.damping),
        ".3g",
        lambda record: record.damping_raised,
    )
    cells = [
        [r.name, short(finite(r.damping)), "yes" if r.damping_raised else ""]
        for r in run.report.matrices
    ]
    return RowChart(
        key="damping",
        title="Damping used",
        description="As a share of the curvature's mean diagonal, one mark per restored matrix. "
        "It is raised where the curvature cannot be factorised otherwise.",
        table=Table(
            ("matrix", "damping", "raised"),
            cells,
            weights=[finite(r.damping) for r in run.report.matrices],
            first=f"the largest{RECORDED}",
        ),
        rows=rows,
        axis="damping",
        legend=[("after", "as asked for"), ("alert", "raised")],
        strip=True,
        log=True,
    )


def score_distributions(run: Run) -> Chart | None:
    """Fisher scores on honesty and task data, of the most perturbed matrices."""
    perturbation = run.report.perturbation
    names = sorted(run.scores, key=lambda name: -(finite(perturbation.get(name)) or 0.0))
    rows, cells = [], []
    for name in names:
        marks = []
        for role, data_set in SCORED:
            levels = run.scores[name].get(data_set, [])
            known = [value for value in levels if finite(value) is not None]
            if len(known) != 5 or len(levels) != 5:
                continue
            cells.append([name, data_set, *(f"{value:.3g}" for value in known)])
            # A logarithmic axis has no place for neurons that never got a gradient.
            low, quarter, median, three, high = (max(v, known[4] * 1e-6) for v in known)
            if high > 0:
                note = f"{name}, {data_set}: median {median:.3g}, 5% {low:.3g}, 95% {high:.3g}"
                marks.append(Mark(role, median, note, (low, high), (quarter, three)))
        if marks and len(rows) < SHOWN_SCORES:
            rows.append(ChartRow(name, marks))
    if not rows:
        return None
    return RowChart(
        key="scores",
        title="Fisher scores of the most perturbed matrices",
        description="Median over the neurons, with the middle half (thick) and the middle 90% "
        "(thin), on the honesty and on the task data.",
        table=Table(
            ("matrix", "data", "5%", "25%", "median", "75%", "95%"),
            cells,
            weights=[finite(perturbation.get(name)) for name, *_ in cells],
            first="the most perturbed",
        ),
        rows=rows,
        axis="Fisher score",
        legend=[("after", "honesty data"), ("before", "task data")],
        log=True,
    )
