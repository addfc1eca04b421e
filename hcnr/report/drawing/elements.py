"""The parts that charts are drawn of: SVG elements, marks of a role, texts and their widths."""

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

from hcnr.report.drawing.charts import Role

CHARACTER = 6.2
"""Width of an average character of a chart's text, in the units of the drawing."""


def element(name: str, /, *children: str | None, **attributes: Any) -> Markup:
    """Return `<name attributes>children</name>`, or `<name attributes/>` without children.

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
    return Markup(f"<{' '.join(parts)}>{inner}</{name}>" if inner else f"<{' '.join(parts)}/>")


def swatch(role: Role, *, line: bool = False) -> Markup:
    """The mark of a role, for a legend."""
    rule = element("path", d="M1 7H23", class_=f"line {role}") if line else None
    return element(
        "svg",
        rule,
        marks(role, [shape(role, 12, 7, r=3.5 if role == "chosen" else 5)]),
        viewBox="0 0 24 14",
        width=24,
        height=14,
        class_="swatch",
        aria_hidden="true",
    )


def marks(role: Role, shapes: Iterable[Markup], y: float | None = None) -> Markup:
    """Shapes of one role, moved down by `y`."""
    down = None if y is None else f"translate(0 {y:g})"
    return element("g", *shapes, class_=f"mark {role}", transform=down)


def shape(role: Role, x: float, y: float, title: Markup | None = None, r: float = 5.0) -> Markup:
    """The shape of a role, about `2 r` wide: shapes differ as well as colours; see `marks`."""
    r *= {"quiet": 0.6, "chosen": 1.6}.get(role, 1.0)
    if role in ("base", "rival", "alert"):
        outline = {
            "base": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l-{r + 1} {r + 1}l-{r + 1} -{r + 1}z",
            "rival": f"M{x - r + 1:.1f} {y - r + 1:.1f}h{2 * r - 2}v{2 * r - 2}h{2 - 2 * r}z",
            "alert": f"M{x:.1f} {y - r - 1:.1f}l{r} {2 * r}h-{2 * r}z",
        }[role]
        return element("path", title, d=outline)
    return element("circle", title, cx=round(x, 1), cy=round(y, 1) or None, r=r)


def text_at(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> Markup:
    """A text whose base line begins, ends or has its middle at a point; `kind` is its class."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def shortened(text: str, room: float) -> str:
    """The text, without its middle where it is wider than `room`."""
    most = max(int(room / CHARACTER), 6)
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def widest(labels: Sequence[str]) -> float:
    """Width of the widest label, by the average character."""
    return max((len(label) for label in labels), default=0) * CHARACTER
