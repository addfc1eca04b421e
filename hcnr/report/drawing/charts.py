"""What a chart shows, apart from how it is drawn: `svg.py` draws it for the page and for files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hcnr.record.tables import Interval, Table

Role = Literal["after", "before", "base", "rival", "quiet", "alert", "chosen"]
"""What a mark stands for; it decides colour and shape everywhere.

`after` the restored model, `before` the tuned one, `base`, `rival` what it is compared with,
`quiet` one of many, `alert` something to look at, `chosen` the recommended one.
"""


@dataclass(frozen=True)
class Chart:
    """What all charts have.

    Attributes:
        key: short name, used for files and anchors.
        title: what is shown.
        description: how to read it, in a sentence or two.
        table: the numbers.
    """

    key: str
    title: str
    description: str
    table: Table


@dataclass(frozen=True)
class Mark:
    """One value.

    Attributes:
        role: what it stands for.
        value: where it is drawn.
        note: what a pointer that rests on it shows.
        interval: a thin line around it.
        inner: a thick line around it.
    """

    role: Role
    value: float
    note: str
    interval: Interval | None = None
    inner: Interval | None = None


@dataclass(frozen=True)
class ChartRow:
    """One line of a `RowChart`."""

    label: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class RowChart(Chart):
    """Values by row, along one axis.

    Attributes:
        rows: from top to bottom.
        axis: name and unit of the values.
        legend: what the roles mean, in the order in which they are drawn within a row.
        bars: draw bars from zero, not points.
        strip: many marks of a row share one line.
        numbers: write the values beside the marks.
        log: a logarithmic axis; all values are positive.
        reference: a line to compare with.
    """

    rows: Sequence[ChartRow]
    axis: str
    legend: Sequence[tuple[Role, str]] = ()
    bars: bool = False
    strip: bool = False
    numbers: str | None = None
    log: bool = False
    reference: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve, with its vertical interval."""

    x: float
    y: float
    note: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Curve:
    """Points that belong together.

    Attributes:
        role: what they stand for.
        label: for the legend.
        points: in drawing order.
        line: whether they are joined.
        tag: text beside the last point.
    """

    role: Role
    label: str
    points: Sequence[CurvePoint]
    line: bool = False
    tag: str | None = None


@dataclass(frozen=True)
class PlaneChart(Chart):
    """Points and curves in a plane.

    Attributes:
        curves: in drawing order.
        x_axis: name and unit of the horizontal axis.
        y_axis: name and unit of the vertical axis.
        whole_x: whether the horizontal axis counts things.
        log_x: a logarithmic horizontal axis; all places on it are positive.
        spanned: values that the vertical axis has a place for, whatever the points are.
        reference: a vertical line to compare with.
    """

    curves: Sequence[Curve]
    x_axis: str
    y_axis: str
    whole_x: bool = False
    log_x: bool = False
    spanned: Sequence[float] = ()
    reference: float | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Attributes:
        value: decides the colour.
        note: what a pointer that rests on it shows.
        marked: whether it carries a dot.
    """

    value: float
    note: str
    marked: bool = False


@dataclass(frozen=True)
class HeatMap(Chart):
    """Cells by row and column; a missing cell stays empty.

    Attributes:
        rows: row labels.
        columns: column labels.
        cells: by row index and column index.
        axis: name of the values.
        columns_axis: name of the columns.
        mark: what a dot means; None where there are none.
        full: value of the full colour, which larger ones share; None is the largest there is.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    cells: dict[tuple[int, int], Cell]
    axis: str
    columns_axis: str
    mark: str | None = None
    full: float | None = None


def legend(chart: Chart) -> list[tuple[Role, str, bool]]:
    """Roles of a chart, what they mean, and whether they are lines; none where there is one."""
    entries: list[tuple[Role, str, bool]] = []
    if isinstance(chart, RowChart):
        used = {mark.role for row in chart.rows for mark in row.marks}
        entries = [(role, name, False) for role, name in chart.legend if role in used]
    elif isinstance(chart, PlaneChart):
        entries = [(curve.role, curve.label, curve.line) for curve in chart.curves]
    return entries if len(entries) > 1 else []


def noted(chart: Chart) -> int:
    """How many marks or cells of a chart have a note."""
    if isinstance(chart, RowChart):
        return sum(len(row.marks) for row in chart.rows)
    if isinstance(chart, PlaneChart):
        return sum(len(curve.points) for curve in chart.curves)
    return len(chart.cells) if isinstance(chart, HeatMap) else 0
