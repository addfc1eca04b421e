"""The charts about the spectrum of matrices repaired whole: where change lies, what was kept."""

import math
from collections.abc import Iterable

from hcnr.record.files.two_sided import Spectrum, TwoSidedRecord, together
from hcnr.record.numbers import NONE, fixed, short
from hcnr.record.tables import Table
from hcnr.report.drawing.charts import Cell, Chart, Curve, CurvePoint, HeatMap, PlaneChart
from hcnr.report.drawing.scales import power_of_ten
from hcnr.report.figures.positions import positions
from hcnr.report.gather import Run

LEAST_ENERGY = 1e-12
"""Share of the change's energy under which a bin holds nothing but rounding (float32, squared)."""
HIGHEST_KEPT = 2.0
"""Where larger shares are drawn: a step may lead where fine-tuning hardly went."""
MOST_ROWS = 28
"""Matrices that get a row each; where there are more, those of a kind share one."""
KEPT = "share kept"
RATIO = "honesty  ←  task / honesty curvature  →  task"


def spectrum(run: Run) -> Chart | None:
    """Share of the change that is kept along the eigenvalues, over all matrices."""
    two = run.report.repair
    whole = together(m.spectrum for m in two.matrices.values()) if two else None
    if two is None or whole is None:
        return None
    spectra = [m.spectrum for m in two.matrices.values() if m.spectrum is not None]
    kept, energy, rows = [], [], []
    for index in _filled(whole):
        at, x = _bin(whole, index), whole.centres[index]
        if whole.energy[index] < LEAST_ENERGY:
            rows.append([at, fixed(whole.directions[index], ",.0f"), "0", NONE, NONE, NONE])
            continue
        shares = [
            some.kept[index]
            for some in spectra
            if some.edges == whole.edges and some.energy[index] >= LEAST_ENERGY
        ]
        span = (min(shares), max(shares)) if len(shares) > 1 else None
        note = f"{at}: {short(whole.kept[index])} kept, {short(whole.energy[index])} of the change"
        drawn = None if span is None else (_drawn(span[0]), _drawn(span[1]))
        kept.append(CurvePoint(x, _drawn(whole.kept[index]), note, drawn))
        energy.append(CurvePoint(x, whole.energy[index], note))
        rows.append(
            [at, fixed(whole.directions[index], ",.0f"), short(whole.energy[index]),
             short(whole.kept[index]), *(short(v) for v in span or (None, None))]
        )  # fmt: skip
    mu = two.task_weight if two.kind == "spectral" else None
    halfway = 1 / mu if mu else None
    return PlaneChart(
        key="spectrum",
        title="What was kept of the change, along the spectrum",
        description=_how_to_read(two, whole, halfway),
        table=Table(("g a", "directions", "share of the change", KEPT, "least", "most"), rows),
        curves=[
            Curve("before", "where the change lies", energy, True),
            Curve("after", KEPT, kept, True),
        ],
        x_axis=RATIO,
        y_axis="share",
        log_x=True,
        spanned=(0.0, 1.0),
        reference=halfway,
    )


def _how_to_read(two: TwoSidedRecord, whole: Spectrum, halfway: float | None) -> str:
    sentences = [
        "By g a of method.md (10), how much more the task data uses a direction than the honesty "
        "data does.",
        _directions_of(two),
        "The band goes from the least to the most of any matrix; each matrix's change counts "
        "alike, weighed as the honesty data feels it.",
    ]
    if halfway is not None:
        sentences.append(
            f"The dashed line is at 1 / mu = {short(halfway)}, where half of a direction's change "
            "is kept and a quarter of its energy."
        )
    if any(whole.kept[index] > HIGHEST_KEPT for index in _filled(whole)):
        sentences.append(f"Shares above {HIGHEST_KEPT:g} are drawn there; the table has them.")
    return " ".join(sentences)


def _directions_of(two: TwoSidedRecord) -> str:
    if two.kind == "natural":
        return (
            "The steps start from the tuned weights, so 1 is the change as it was; other shares "
            "tell where the steps went. They are held back on the right, where the task would "
            "feel them."
        )
    further = " The natural steps come on top." if two.kind != "spectral" else ""
    return (
        "On the left are honesty's directions, given back to base; on the right the task's, kept."
        f"{further}"
    )


def spectrum_by_matrix(run: Run) -> Chart | None:
    """The same as a heat map, one row per matrix, or per kind of matrix where they are many."""
    two = run.report.repair
    known = {n: m.spectrum for n, m in two.matrices.items() if m.spectrum} if two else {}
    whole = together(known.values())
    if two is None or whole is None:
        return None
    named = _rows(known, run.report.perturbation)
    spectra = [(label, together(known[n] for n in names)) for label, names in named.items()]
    lines = [(label, some) for label, some in spectra
             if some is not None and some.edges == whole.edges]  # fmt: skip
    bins = _filled(*(some for _, some in lines))
    cells = {
        (row, column): Cell(
            max(some.kept[index], 0.0),
            f"{label}, {_bin(some, index)}: {short(some.kept[index])} kept, "
            f"{short(some.energy[index])} of the change",
            some.kept[index] > 1.005,
        )
        for row, (label, some) in enumerate(lines)
        for column, index in enumerate(bins)
        if some.energy[index] >= LEAST_ENERGY
    }
    table = [
        [label, *(short(some.kept[p]) if some.energy[p] >= LEAST_ENERGY else NONE for p in bins)]
        for label, some in lines
    ]
    several = len(named) < len(known)
    marked = any(cell.marked for cell in cells.values())
    return HeatMap(
        key="spectrum-by-matrix",
        title="What was kept, by matrix",
        description="The same for "
        + ("the matrices of a kind together; hcnr_report.json has each." if several
           else "each repaired matrix.")
        + " A cell stays empty where fine-tuning changed nothing."
        + (" A dot marks shares above 1, where steps went further than fine-tuning had."
           if marked else ""),
        table=Table(("matrix", *(_bin(whole, index) for index in bins)), table),
        rows=[label for label, _ in lines],
        columns=[_bin(whole, index) for index in bins],
        cells=cells,
        axis=KEPT,
        columns_axis=RATIO,
        mark="above 1" if marked else None,
        full=1.0,
    )  # fmt: skip


def _rows(known: dict[str, Spectrum], targets: Iterable[str]) -> dict[str, list[str]]:
    """Names by the label of their row: `q_proj 3` for few matrices, `q_proj` for many."""
    placed = positions([*targets, *known])
    kinds = list(dict.fromkeys(position.kind for position in placed.values()))
    ordered = sorted(known, key=lambda n: (kinds.index(placed[n].kind), placed[n].block or 0))
    rows: dict[str, list[str]] = {}
    for name in ordered:
        position = placed[name]
        alone = len(known) <= MOST_ROWS and position.block is not None
        rows.setdefault(f"{position.kind} {position.block}" if alone else position.kind, []).append(
            name
        )
    return rows


def _filled(*spectra: Spectrum) -> range:
    """Bins from the first to the last that holds some of the change."""
    filled = [
        index
        for some in spectra
        for index, energy in enumerate(some.energy)
        if energy >= LEAST_ENERGY
    ]
    return range(min(filled, default=0), max(filled, default=-1) + 1)


def _bin(some: Spectrum, index: int) -> str:
    """A bin's centre, and whether it is open."""
    centre = some.centres[index]
    exponent = math.log10(centre)
    close = abs(exponent - round(exponent)) < 1e-6
    text = power_of_ten(round(exponent)) if close else f"{centre:.2g}"
    last = len(some.edges)
    return f"{'≤' if index == 0 else '≥' if index == last else ''}{text}"


def _drawn(share: float) -> float:
    return min(share, HIGHEST_KEPT)
