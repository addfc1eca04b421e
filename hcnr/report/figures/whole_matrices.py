"""The charts about matrices that were repaired whole: what it costs, and how it was solved."""

import math
from collections.abc import Callable, Iterable
from statistics import fmean

from hcnr.record.files.two_sided import AXES, WholeMatrixRecord
from hcnr.record.numbers import fixed, positive, short
from hcnr.record.tables import Table
from hcnr.report.drawing.charts import Cell, Chart, ChartRow, HeatMap, Mark, Role, RowChart
from hcnr.report.figures.positions import RECORDED, grid, group_label, positions, spot
from hcnr.report.gather import Run

Lane = tuple[Role, str, Callable[[WholeMatrixRecord], float | None]]
"""How values of all matrices are marked, what they are, and where they come from."""


def restored_directions(run: Run) -> Chart | None:
    """Effective share of restored directions, by block and kind."""
    two = run.report.repair
    matrices = two.matrices if two else {}
    shares = {n: m.restored_share for n, m in matrices.items() if m.restored_share is not None}
    if two is None or not shares:
        return None
    layout, cells = grid({**run.report.perturbation, **shares}), {}
    for where, group in layout.groups.items():
        if names := [name for name in group if name in shares]:
            mean = fmean(shares[name] for name in names)
            cells[where] = Cell(mean, f"{group_label(names)}: {mean:.1%} of the directions")
    whole = f"{two.restored_share:.1%}" if two.restored_share is not None else "an unknown share"
    return HeatMap(
        key="directions",
        title="Share of directions restored",
        description="The effective number of directions given back to base, the sum of "
        f"1 / (1 + mu g a), as a share of all that a matrix has: {whole} over all repaired "
        "matrices. It compares with the in-weight ratio R_IW, the share of neurons that the "
        "kinds of one axis restore. Other matrices, left as tuned, have no cell.",
        table=Table(
            ("matrix", "directions restored", "share"),
            [[n, fixed(matrices[n].restored_directions, ",.0f"), f"{share:.1%}"]
             for n, share in shares.items()],
            weights=list(shares.values()),
            first=f"the largest shares{RECORDED}",
        ),
        rows=layout.rows,
        columns=layout.columns,
        cells=cells,
        axis="share restored",
        columns_axis="block",
    )  # fmt: skip


TERMS: tuple[Lane, ...] = (
    ("after", "honesty term left", lambda matrix: _percent(matrix.honesty_left)),
    ("before", "task term lost", lambda matrix: _percent(matrix.task_lost)),
)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def terms(run: Run) -> Chart | None:
    """Both terms of the objective for every matrix."""
    two = run.report.repair
    matrices = list(two.matrices.values()) if two else []
    rows = _by_kind(run, matrices, TERMS, "{:.1f}%")
    if not rows:
        return None
    return RowChart(
        key="terms",
        title="What each side is left with",
        description="One mark per repaired matrix. Left of the honesty term, tr(G E A E^T) on "
        "honesty data, as a share of the tuned model's; lost of the task term, the same of "
        "E - delta on task data, as a share of the base model's. The tuned model has "
        "100% and 0%, base 0% and 100%.",
        table=Table(
            ("matrix", *(name for _, name, _ in TERMS)),
            [[m.name, fixed(m.honesty_left, ".2%"), fixed(m.task_lost, ".2%")] for m in matrices],
            weights=[m.task_lost for m in matrices],
            first=f"the most lost{RECORDED}",
        ),
        rows=rows,
        axis="share, %",
        legend=[(role, name) for role, name, _ in TERMS],
    )


CONDITIONS: tuple[Lane, ...] = (
    (
        "after",
        "output axis",
        lambda matrix: None if matrix.raised else positive(matrix.condition[0]),
    ),
    (
        "base",
        "input axis",
        lambda matrix: None if matrix.raised else positive(matrix.condition[1]),
    ),
    ("alert", "the worse axis, damping raised", lambda matrix: _worse(matrix)),
)


def _worse(matrix: WholeMatrixRecord) -> float | None:
    known = [value for value in map(positive, matrix.condition) if value is not None]
    return max(known, default=None) if matrix.raised else None


def condition_by_axis(run: Run) -> Chart | None:
    """Condition, damping and route of both axes of every matrix."""
    two = run.report.repair
    matrices = list(two.matrices.values()) if two else []
    rows = _by_kind(run, matrices, CONDITIONS, "{:.3g}")
    used = {mark.role for row in rows for mark in row.marks}
    if not rows:
        return None
    heads = [f"{what}, {axis}" for what in ("condition", "damping", "route") for axis in AXES]
    cells = [
        [m.name, *map(short, (*m.condition, *m.damping)), *m.routes, "yes" if m.raised else ""]
        for m in matrices
    ]  # fmt: skip
    return RowChart(
        key="axes",
        title="Condition on both axes",
        description="Of the damped curvature of both data sets together, which is what was "
        "factorised. Above a million, rounding may decide. The table says whether an axis was "
        "solved in the span of its tokens or densely.",
        table=Table(
            ("matrix", *heads, "raised"),
            cells,
            heads[-2:],
            weights=[
                max((c for c in m.condition if c is not None), default=None) for m in matrices
            ],
            first=f"the largest estimates{RECORDED}",
        ),
        rows=rows,
        axis="condition estimate",
        legend=[(role, name) for role, name, _ in CONDITIONS if role in used],
        log=True,
    )


def _by_kind(
    run: Run, matrices: Iterable[WholeMatrixRecord], lanes: Iterable[Lane], text: str
) -> list[ChartRow]:
    """One row per kind of matrix with a mark per matrix in every lane."""
    known = {matrix.name: matrix for matrix in matrices}
    placed = positions({**run.report.perturbation, **known})
    rows: dict[str, list[Mark]] = {position.kind: [] for position in placed.values()}
    for name, matrix in known.items():
        for role, _, value in lanes:
            number = value(matrix)
            if number is not None and math.isfinite(number):
                note = f"{spot(name)}: {text.format(number)}"
                rows[placed[name].kind].append(Mark(role, number, note))
    return [ChartRow(kind, marks) for kind, marks in rows.items() if marks]
