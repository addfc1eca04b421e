"""HTML and SVG elements whose text is always escaped."""

from html import escape
from typing import Any

VOID = frozenset({"meta", "br", "link", "col"})


class Markup(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: Any) -> Markup:
    """Return `<name attributes>children</name>`.

    Args:
        name: tag name.
        children: `Markup` is inserted as it is, other text is escaped, None is left out.
        attributes: `class_` stands for `class`, other underscores for hyphens. None leaves an
            attribute out, True gives it no value, floats are cut to two decimals.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        label = key.rstrip("_").replace("_", "-")
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        parts.append(label if value is True else f'{label}="{escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: str | None) -> Markup:
    """Put children side by side, escaped where they are plain text."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(child)
            for child in children
            if child is not None
        )
    )
