"""How the report writes numbers.

A minus is the hyphen of the keyboard here as in every sentence, file and command: what a page says
can be searched for, and typed again.
"""

import math

NONE = "\N{EN DASH}"
"""What stands where there is no number."""


def without_negative_zero(text: str) -> str:
    """The same, where `-0.0` is `0.0`."""
    return text if text.strip("-0.") else text.removeprefix("-")


def fixed(value: float | None, pattern: str = ".1f") -> str:
    """A number as text, a dash for None; zero has no sign."""
    if value is None:
        return NONE
    text = format(value, pattern)
    return text if text.strip("+-0.") else text.lstrip("+-")


def signed(value: float | None) -> str:
    """Points with their sign."""
    return fixed(value, "+.1f")


def short(value: float | None) -> str:
    """Three significant digits."""
    return fixed(value, ".3g")


def in_bytes(count: int) -> str:
    """A number of bytes, such as `12.3 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{short(value)} {unit}"


def with_interval(
    value: float | None, span: tuple[float, float] | None, pattern: str = ".1f"
) -> str:
    """`68.3 (66.1 to 70.2)`; without an interval the number alone."""
    if value is None or span is None:
        return fixed(value, pattern)
    return f"{fixed(value, pattern)} ({fixed(span[0], pattern)} to {fixed(span[1], pattern)})"


def finite(value: float | None) -> float | None:
    """What a chart has a place for: None for infinity and for what is no number."""
    return value if value is not None and math.isfinite(value) else None


def positive(value: float | None) -> float | None:
    """The same for a logarithmic axis."""
    number = finite(value)
    return number if number is not None and number > 0 else None
