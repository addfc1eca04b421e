"""The history of the counts as one small SVG: a line for every call that ever changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hcnr.report.drawing.elements import element

WIDTH, ROW, TOP, LEFT, PANEL, GAP = 900, 34, 46, 330, 150, 36
METRICS = ("launches", "operations", "bytes")
STYLE = (
    "text{font:12px sans-serif;fill:#24292f}.m{fill:#57606a;font-size:11px}"
    "polyline{fill:none;stroke:#0550ae;stroke-width:2}circle{fill:#0550ae}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.m{fill:#9198a1}"
    "polyline{stroke:#79c0ff}circle{fill:#79c0ff}}"
)


def series(history: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Call -> its counts at every point, from where it was first counted; those that changed."""
    by_title: dict[str, list[list[float]]] = {}
    for point in history:
        for title in by_title:
            by_title[title].append(point["rows"].get(title, by_title[title][-1]))
        for title, row in point["rows"].items():
            by_title.setdefault(title, [row])
    return {title: rows for title, rows in by_title.items() if any(row != rows[0] for row in rows)}


def plotted(history: Sequence[Mapping[str, Any]]) -> str:
    """The SVG; every line is relative to the first count of its call."""
    lines = series(history)
    height = TOP + ROW * max(len(lines), 1) + 10
    parts = [
        element("style", Markup(STYLE)),
        *(
            element("text", name, x=LEFT + place * (PANEL + GAP), y=20)
            for place, name in enumerate(METRICS)
        ),
        element("text", f"relative to {history[0]['date']}", x=10, y=20, class_="m"),
    ]
    if not lines:
        parts.append(element("text", "no count has changed yet", x=10, y=TOP + 14))
    for index, (title, rows) in enumerate(lines.items()):
        y = TOP + index * ROW
        name, _, shape = title.partition(", ")
        parts.append(element("text", name, x=10, y=y + 12))
        parts.append(element("text", shape, x=10, y=y + 25, class_="m"))
        for column in range(len(METRICS)):
            parts += _line([row[column] for row in rows], LEFT + column * (PANEL + GAP), y)
    return (
        element(
            "svg",
            element("title", "Counts of tracked calls over time"),
            *parts,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {height}",
            role="img",
        )
        + "\n"
    )


def _line(values: Sequence[float], x: int, y: int) -> list[Markup]:
    """A line from the first value to the last, and their ratio."""
    if not values[0]:
        return []
    most = max(values)
    width = PANEL - 50
    step = width / max(len(values) - 1, 1)
    points = [(x + i * step, y + 26 - 22 * value / most) for i, value in enumerate(values)]
    ratio = values[-1] / values[0]
    return [
        element("polyline", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in points)),
        element("circle", cx=points[-1][0], cy=points[-1][1], r=3),
        element("text", f"{ratio:.3g}x", x=x + width + 8, y=points[-1][1] + 4),
    ]
