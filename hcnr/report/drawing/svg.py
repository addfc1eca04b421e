"""Charts as inline SVG: colours come from the page's style, so one drawing serves both schemes.

Marks and cells of a kind share a group that has their class: a chart may have a thousand.
"""

from collections.abc import Callable

from markupsafe import Markup

from hcnr.report.drawing.charts import Chart, HeatMap, Mark, PlaneChart, Role, RowChart
from hcnr.report.drawing.elements import (
    CHARACTER,
    element,
    marks,
    shape,
    shortened,
    text_at,
    widest,
)
from hcnr.report.drawing.scales import Scale, fitted

LANE = 16
"""Height that one mark of a row takes."""


def draw(chart: Chart, width: int, notes: bool = True) -> Markup:
    """Draw a chart of a given width for the page; its height follows from what it shows.

    Args:
        chart: what is drawn.
        width: in pixels at full size.
        notes: whether marks have the notes that a resting pointer shows.
    """
    height, parts = drawing(chart, width, notes)
    name = f"{chart.key}-{width}"
    return element(
        "svg",
        element("title", chart.title, id=f"{name}-title"),
        element("desc", chart.description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {width} {height:.0f}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def drawing(chart: Chart, width: int, notes: bool = True) -> tuple[float, list[Markup]]:
    """Height and elements of a chart of a given width."""
    noted = _note if notes else _no_note
    if isinstance(chart, RowChart):
        return _rows(chart, width, noted)
    if isinstance(chart, PlaneChart):
        return _plane(chart, width, noted)
    if isinstance(chart, HeatMap):
        return _heat(chart, width, noted)
    raise TypeError(f"no drawing for {type(chart).__name__}")


def _note(text: str) -> Markup | None:
    return element("title", text) if text else None


def _no_note(text: str) -> None:
    pass


Noted = Callable[[str], Markup | None]


def _bottom_axis(scale: Scale, top: float, bottom: float, name: str) -> list[Markup]:
    parts = []
    for value, label in scale.ticks(max(3, int((scale.end - scale.start) / 60))):
        x = scale(value)
        parts.append(element("path", d=f"M{x:.1f} {top:.1f}V{bottom:.1f}", class_="grid"))
        parts.append(text_at(x, bottom + 16, label, "middle", "tick"))
    middle = (scale.start + scale.end) / 2
    parts.append(text_at(middle, bottom + 34, name, "middle", "axis"))
    return parts


def _rows(chart: RowChart, width: int, noted: Noted) -> tuple[float, list[Markup]]:
    label_width = widest([row.label for row in chart.rows])
    stacked = label_width > width * 0.3
    left = 8.0 if stacked else label_width + 14
    right = width - (52.0 if chart.numbers else 14.0)
    roles: list[Role] = [role for role, _ in chart.legend] or ["after"]
    if chart.strip:
        roles = list(dict.fromkeys([*roles, *(m.role for row in chart.rows for m in row.marks)]))
    lines = 1 if chart.strip else len(roles)
    above = 15 if stacked else 0
    pitch = above + LANE * lines + (10 if lines == 1 else 18)
    every = [mark for row in chart.rows for mark in row.marks]
    values = [v for m in every for v in (m.value, *(m.interval or ()), *(m.inner or ()))]
    if chart.reference is not None:
        values.append(chart.reference)
    scale = fitted(values, left, right, zero=chart.bars, log=chart.log)
    bottom = 8 + pitch * len(chart.rows)
    parts = _bottom_axis(scale, 4, bottom, chart.axis)
    if chart.reference is not None:
        x = scale(chart.reference)
        parts.append(element("path", d=f"M{x:.1f} 4V{bottom:.1f}", class_="reference"))
    for index, row in enumerate(chart.rows):
        top = 8 + index * pitch
        if index and lines > 1:
            parts.append(element("path", d=f"M{4} {top:.1f}H{right:.1f}", class_="rule"))
        middle = top + (above + pitch) / 2
        if stacked:
            parts.append(text_at(left, top + 12, shortened(row.label, width - left)))
        else:
            parts.append(text_at(left - 10, middle + 4, row.label, "end"))
        for lane, role in enumerate(roles):
            y = middle + ((0 if chart.strip else lane) - (lines - 1) / 2) * LANE
            alike = [mark for mark in row.marks if mark.role == role]
            for mark in alike:
                parts += _around(chart, mark, scale, y, noted)
            if alike and not chart.bars:
                shapes = (shape(role, scale(m.value), 0.0, noted(m.note)) for m in alike)
                parts.append(marks(role, shapes, y))
    return bottom + 42, parts


def _around(chart: RowChart, mark: Mark, scale: Scale, y: float, noted: Noted) -> list[Markup]:
    """Bar or intervals of a mark, and its number."""
    x = scale(mark.value)
    end = x
    parts = []
    if chart.bars:
        zero = scale(0.0)
        low, size = min(zero, x), max(abs(x - zero), 1.0)
        parts.append(
            element("rect", noted(mark.note), x=low, y=y - 6, width=size, height=12, rx=2,
                    class_=f"bar {mark.role}")
        )  # fmt: skip
        end = max(zero, x)
    else:
        for span, kind in ((mark.interval, "thin"), (mark.inner, "thick")):
            if span is not None:
                a, b = scale(span[0]), scale(span[1])
                d = f"M{a:.1f} {y:.1f}H{b:.1f}"
                parts.append(element("path", d=d, class_=f"{kind} {mark.role}"))
                end = max(end, b)
        end += 3
    if chart.numbers:
        parts.append(text_at(end + 6, y + 4, format(mark.value, chart.numbers), kind="number"))
    return parts


def _plane(chart: PlaneChart, width: int, noted: Noted) -> tuple[float, list[Markup]]:
    height = round(width * (0.58 if width > 500 else 0.85))
    points = [point for curve in chart.curves for point in curve.points]
    heights = [*chart.spanned, *(v for p in points for v in (p.y, *(p.interval or ())))]
    places = [p.x for p in points] + ([] if chart.reference is None else [chart.reference])
    bottom, left = height - 44.0, 46.0
    across = fitted(places, left, width - 12.0, log=chart.log_x)
    up = fitted(heights, bottom, 24.0)
    parts = [text_at(4, 12, chart.y_axis, kind="axis")]
    for value, label in up.ticks(max(4, height // 60)):
        y = up(value)
        parts.append(element("path", d=f"M{left:.1f} {y:.1f}H{width - 12}", class_="grid"))
        parts.append(text_at(left - 8, y + 4, label, "end", "tick"))
    for value, label in across.ticks(max(4, width // 80)):
        if chart.whole_x:
            if abs(value - round(value)) > 1e-9:
                continue
            label = f"{value:.0f}"
        x = across(value)
        parts.append(element("path", d=f"M{x:.1f} {bottom:.1f}v5", class_="grid"))
        parts.append(text_at(x, bottom + 18, label, "middle", "tick"))
    parts.append(text_at((left + width - 12) / 2, height - 8, chart.x_axis, "middle", "axis"))
    if chart.reference is not None:
        x = across(chart.reference)
        parts.append(element("path", d=f"M{x:.1f} 24V{bottom:.1f}", class_="reference"))
    for curve in chart.curves:
        banded = [(across(p.x), p.interval) for p in curve.points if p.interval is not None]
        if curve.line and len(banded) > 1:
            edge = [f"{x:.1f} {up(span[1]):.1f}" for x, span in banded]
            edge += [f"{x:.1f} {up(span[0]):.1f}" for x, span in reversed(banded)]
            parts.append(element("path", d=f"M{'L'.join(edge)}z", class_=f"band {curve.role}"))
    tags = []
    for curve in chart.curves:
        places = [(across(point.x), up(point.y)) for point in curve.points]
        if curve.line and len(places) > 1:
            d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(element("path", d=d, class_=f"line {curve.role}"))
        size = 2.5 if curve.line and len(places) > 40 else 4.0 if curve.line else 5.0
        shapes = []
        for (x, y), point in zip(places, curve.points, strict=True):
            if not curve.line and point.interval is not None:
                low, high = (up(value) for value in point.interval)
                d = f"M{x:.1f} {low:.1f}V{high:.1f}"
                parts.append(element("path", d=d, class_=f"thin {curve.role}"))
            shapes.append(shape(curve.role, x, y, noted(point.note), size))
        parts.append(marks(curve.role, shapes))
        if curve.tag and places:
            x, y = places[-1]
            fits = x + 14 + len(curve.tag) * CHARACTER * 1.1 < width
            tags.append(text_at(x + (14 if fits else -14), y - 8, curve.tag,
                              "start" if fits else "end", "tag"))  # fmt: skip
    return height, parts + tags


def _heat(chart: HeatMap, width: int, noted: Noted) -> tuple[float, list[Markup]]:
    left = min(widest(chart.rows) + 14, width * 0.34)
    across = min((width - left - 2) / len(chart.columns), 64.0)
    tall = 26.0
    gap = 1.5 if across > 6 else 0.5
    largest = chart.full or max((cell.value for cell in chart.cells.values()), default=0.0) or 1.0
    parts = [
        text_at(left - 8, 8 + row * tall + tall / 2 + 4, shortened(label, left - 8), "end")
        for row, label in enumerate(chart.rows)
    ]
    cells: dict[float, list[tuple[str, Markup | None]]] = {}
    dots: dict[str, list[str]] = {}
    for (row, column), cell in chart.cells.items():
        x, y = left + column * across, 8 + row * tall
        depth = round(0.05 + 0.95 * min(cell.value / largest, 1.0), 2)
        d = f"M{x:.1f} {y:g}h{across - gap:.1f}v{tall - gap:g}h-{across - gap:.1f}z"
        cells.setdefault(depth, []).append((d, noted(cell.note)))
        if cell.marked:
            kind = "dot strong" if cell.value > 0.55 * largest else "dot"
            # A line without length whose ends are round.
            dot = f"M{x + (across - gap) / 2:.1f} {y + (tall - gap) / 2:g}h0"
            dots.setdefault(kind, []).append(dot)
    for depth, alike in cells.items():
        joined = [("".join(d for d, _ in alike), None)]
        shapes = joined if all(note is None for _, note in alike) else alike
        drawn = (element("path", note, d=d) for d, note in shapes)
        parts.append(element("g", *drawn, class_="cell", fill_opacity=depth))
    for kind, some in dots.items():
        size = 2 * min(2.6, across / 3)
        parts.append(element("path", d="".join(some), class_=kind, stroke_width=size))
    bottom = 8 + tall * len(chart.rows)
    step = next(
        s for s in (1, 2, 5, 10, 20, 50, 100, 10**9)
        if s * across >= widest(chart.columns) + 6 or s == 10**9
    )  # fmt: skip
    for column in range(0, len(chart.columns), step):
        x = left + (column + 0.5) * across
        parts.append(text_at(x, bottom + 15, chart.columns[column], "middle", "tick"))
    middle = left + across * len(chart.columns) / 2
    parts.append(text_at(middle, bottom + 33, chart.columns_axis, "middle", "axis"))
    parts.append(_key(chart, left, bottom + 46, largest))
    return bottom + 72, parts


def _key(chart: HeatMap, left: float, top: float, largest: float) -> Markup:
    """From pale to full, with the values of both ends and what a dot means, if there are any."""
    steps = 8
    ramp = [
        element("rect", x=left + 30 + i * 12, y=top, width=12, height=11,
                fill_opacity=0.05 + 0.95 * i / (steps - 1), class_="cell")
        for i in range(steps)
    ]  # fmt: skip
    end = left + 30 + steps * 12
    after = end + 8 + len(f"{largest:.3g}") * CHARACTER + 16
    dot = (
        element("path", d=f"M{after:.1f} {top + 6:g}h0", class_="dot", stroke_width=5.2),
        text_at(after + 8, top + 10, chart.mark, kind="tick"),
    ) if chart.mark else ()  # fmt: skip
    low = text_at(left + 24, top + 10, "0", "end", "tick")
    high = text_at(end + 8, top + 10, f"{largest:.3g}", kind="tick")
    return Markup().join((low, *ramp, high, *dot))
