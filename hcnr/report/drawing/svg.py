"""Charts as inline SVG: colours come from the page's style, so one drawing serves both schemes."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from hcnr.report.drawing.charts import Chart, HeatMap, Mark, PlaneChart, Role, RowChart
from hcnr.report.drawing.scales import Scale, fitted

CHARACTER = 6.2
"""Width of an average character of a chart's text, in the units of the drawing."""
LANE = 16
"""Height that one mark of a row takes."""


def element(name: str, /, *children: str | None, **attributes: Any) -> Markup:
    """Return `<name attributes>children</name>`.

    Args:
        name: tag name.
        children: `Markup` is inserted as it is, other text is escaped, None is left out.
        attributes: `class_` stands for `class`, other underscores for hyphens. None leaves an
            attribute out, floats are cut to two decimals.
    """
    parts = [name]
    for key, value in attributes.items():
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        if value is not None:
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    inner = Markup().join(child for child in children if child is not None)
    return Markup(f"<{' '.join(parts)}>{inner}</{name}>")


def draw(chart: Chart, width: int) -> Markup:
    """Draw a chart of a given width for the page; its height follows from what it shows."""
    height, parts = drawing(chart, width)
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


def drawing(chart: Chart, width: int) -> tuple[float, list[Markup]]:
    """Height and elements of a chart of a given width."""
    if isinstance(chart, RowChart):
        return _rows(chart, width)
    if isinstance(chart, PlaneChart):
        return _plane(chart, width)
    if isinstance(chart, HeatMap):
        return _heat(chart, width)
    raise TypeError(f"no drawing for {type(chart).__name__}")


def swatch(role: Role, *, line: bool = False) -> Markup:
    """The mark of a role, for a legend."""
    rule = element("path", d="M1 7H23", class_=f"line {role}") if line else None
    return element(
        "svg",
        rule,
        shape(role, 12, 7, r=3.5 if role == "chosen" else 5),
        viewBox="0 0 24 14",
        width=24,
        height=14,
        class_="swatch",
        aria_hidden="true",
    )


def shape(role: Role, x: float, y: float, note: str | None = None, r: float = 5.0) -> Markup:
    """The mark of a role, about `2 r` wide: shapes differ as well as colours."""
    r *= {"quiet": 0.6, "chosen": 1.6}.get(role, 1.0)
    title = element("title", note) if note else None
    if role in ("base", "rival", "alert"):
        outline = {
            "base": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l-{r + 1} {r + 1}l-{r + 1} -{r + 1}z",
            "rival": f"M{x - r + 1:.1f} {y - r + 1:.1f}h{2 * r - 2}v{2 * r - 2}h{2 - 2 * r}z",
            "alert": f"M{x:.1f} {y - r - 1:.1f}l{r} {2 * r}h-{2 * r}z",
        }[role]
        return element("path", title, d=outline, class_=f"mark {role}")
    return element("circle", title, cx=x, cy=y, r=r, class_=f"mark {role}")


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def _shortened(text: str, room: float) -> str:
    most = max(int(room / CHARACTER), 6)
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def _widest(labels: Sequence[str]) -> float:
    return max((len(label) for label in labels), default=0) * CHARACTER


def _bottom_axis(scale: Scale, top: float, bottom: float, name: str) -> list[Markup]:
    parts = []
    for value, label in scale.ticks(max(3, int((scale.end - scale.start) / 60))):
        x = scale(value)
        parts.append(element("path", d=f"M{x:.1f} {top:.1f}V{bottom:.1f}", class_="grid"))
        parts.append(_text(x, bottom + 16, label, "middle", "tick"))
    middle = (scale.start + scale.end) / 2
    parts.append(_text(middle, bottom + 34, name, "middle", "axis"))
    return parts


def _rows(chart: RowChart, width: int) -> tuple[float, list[Markup]]:
    label_width = _widest([row.label for row in chart.rows])
    stacked = label_width > width * 0.3
    left = 8.0 if stacked else label_width + 14
    right = width - (52.0 if chart.numbers else 14.0)
    roles = [role for role, _ in chart.legend] or ["after"]
    lines = 1 if chart.strip else len(roles)
    above = 15 if stacked else 0
    pitch = above + LANE * lines + (10 if lines == 1 else 18)
    marks = [mark for row in chart.rows for mark in row.marks]
    values = [v for m in marks for v in (m.value, *(m.interval or ()), *(m.inner or ()))]
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
            parts.append(_text(left, top + 12, _shortened(row.label, width - left)))
        else:
            parts.append(_text(left - 10, middle + 4, row.label, "end"))
        for mark in row.marks:
            lane = 0 if chart.strip else roles.index(mark.role)
            y = middle + (lane - (lines - 1) / 2) * LANE
            parts += _mark(chart, mark, scale, y)
    return bottom + 42, parts


def _mark(chart: RowChart, mark: Mark, scale: Scale, y: float) -> list[Markup]:
    x = scale(mark.value)
    end = x
    parts = []
    if chart.bars:
        zero = scale(0.0)
        title = element("title", mark.note)
        low, size = min(zero, x), max(abs(x - zero), 1.0)
        parts.append(
            element("rect", title, x=low, y=y - 6, width=size, height=12, rx=2,
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
        parts.append(shape(mark.role, x, y, mark.note))
    if chart.numbers:
        parts.append(_text(end + 6, y + 4, format(mark.value, chart.numbers), kind="number"))
    return parts


def _plane(chart: PlaneChart, width: int) -> tuple[float, list[Markup]]:
    height = round(width * (0.58 if width > 500 else 0.85))
    points = [point for curve in chart.curves for point in curve.points]
    heights = [*chart.spanned, *(v for p in points for v in (p.y, *(p.interval or ())))]
    places = [p.x for p in points] + ([] if chart.reference is None else [chart.reference])
    bottom, left = height - 44.0, 46.0
    across = fitted(places, left, width - 12.0, log=chart.log_x)
    up = fitted(heights, bottom, 24.0)
    parts = [_text(4, 12, chart.y_axis, kind="axis")]
    for value, label in up.ticks(max(4, height // 60)):
        y = up(value)
        parts.append(element("path", d=f"M{left:.1f} {y:.1f}H{width - 12}", class_="grid"))
        parts.append(_text(left - 8, y + 4, label, "end", "tick"))
    for value, label in across.ticks(max(4, width // 80)):
        if chart.whole_x:
            if abs(value - round(value)) > 1e-9:
                continue
            label = f"{value:.0f}"
        x = across(value)
        parts.append(element("path", d=f"M{x:.1f} {bottom:.1f}v5", class_="grid"))
        parts.append(_text(x, bottom + 18, label, "middle", "tick"))
    parts.append(_text((left + width - 12) / 2, height - 8, chart.x_axis, "middle", "axis"))
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
        for (x, y), point in zip(places, curve.points, strict=True):
            if not curve.line and point.interval is not None:
                low, high = (up(value) for value in point.interval)
                d = f"M{x:.1f} {low:.1f}V{high:.1f}"
                parts.append(element("path", d=d, class_=f"thin {curve.role}"))
            parts.append(shape(curve.role, x, y, point.note, size))
        if curve.tag and places:
            x, y = places[-1]
            fits = x + 14 + len(curve.tag) * CHARACTER * 1.1 < width
            tags.append(_text(x + (14 if fits else -14), y - 8, curve.tag,
                              "start" if fits else "end", "tag"))  # fmt: skip
    return height, parts + tags


def _heat(chart: HeatMap, width: int) -> tuple[float, list[Markup]]:
    left = min(_widest(chart.rows) + 14, width * 0.34)
    across = min((width - left - 2) / len(chart.columns), 64.0)
    tall = 26.0
    gap = 1.5 if across > 6 else 0.5
    largest = chart.full or max((cell.value for cell in chart.cells.values()), default=0.0) or 1.0
    parts = [
        _text(left - 8, 8 + row * tall + tall / 2 + 4, _shortened(label, left - 8), "end")
        for row, label in enumerate(chart.rows)
    ]
    for (row, column), cell in chart.cells.items():
        x, y = left + column * across, 8 + row * tall
        depth = 0.05 + 0.95 * min(cell.value / largest, 1.0)
        parts.append(
            element("rect", element("title", cell.note), x=x, y=y, width=across - gap,
                    height=tall - gap, fill_opacity=depth, class_="cell")
        )  # fmt: skip
        if cell.marked:
            r = min(2.6, across / 3)
            strong = " strong" if cell.value > 0.55 * largest else ""
            parts.append(
                element("circle", cx=x + (across - gap) / 2, cy=y + (tall - gap) / 2, r=r,
                        class_=f"dot{strong}")
            )  # fmt: skip
    bottom = 8 + tall * len(chart.rows)
    step = next(
        s for s in (1, 2, 5, 10, 20, 50, 100, 10**9)
        if s * across >= _widest(chart.columns) + 6 or s == 10**9
    )  # fmt: skip
    for column in range(0, len(chart.columns), step):
        x = left + (column + 0.5) * across
        parts.append(_text(x, bottom + 15, chart.columns[column], "middle", "tick"))
    middle = left + across * len(chart.columns) / 2
    parts.append(_text(middle, bottom + 33, chart.columns_axis, "middle", "axis"))
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
        element("circle", cx=after, cy=top + 6, r=2.6, class_="dot"),
        _text(after + 8, top + 10, chart.mark, kind="tick"),
    ) if chart.mark else ()  # fmt: skip
    low = _text(left + 24, top + 10, "0", "end", "tick")
    high = _text(end + 8, top + 10, f"{largest:.3g}", kind="tick")
    return Markup().join((low, *ramp, high, *dot))
