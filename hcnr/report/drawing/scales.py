"""From values to places on a chart, and the round numbers that label an axis."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hcnr.record.numbers import without_negative_zero

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Scale:
    """Maps `low .. high` to `start .. end`, along a straight or a logarithmic axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Place of a value, kept within the chart."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (value - low) / (high - low)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """At most about `most` round values with their labels."""
        return (
            log_ticks(self.low, self.high, most) if self.log else ticks(self.low, self.high, most)
        )


def fitted(
    values: Iterable[float], start: float, end: float, *, zero: bool = False, log: bool = False
) -> Scale:
    """A scale with a little room around all values.

    Args:
        values: finite; those that are not positive are left out where `log`. None at all gives
            0 .. 1.
        start: place of the low end.
        end: place of the high end.
        zero: let the axis begin at zero.
        log: a logarithmic axis.
    """
    shown = [value for value in values if value > 0 or not log] or [1.0]
    low, high = min(shown), max(shown)
    if log:
        return Scale(low / 1.3, high * 1.3, start, end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    size = size if size > 1e-200 else 1.0
    if high - low < 1e-9 * size:
        low, high = low - size / 2, high + size / 2
    room = (high - low) * 0.05
    bottom = low if zero and low == 0 else low - room
    return Scale(bottom, high + room, start, end)


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten between `low` and `high`; one where they meet.

    Where there would be one alone, the next smaller step, which may give a few more than `most`.
    """
    rough = (high - low) / max(most, 1)
    if not rough > 0:
        return [(low, without_negative_zero(f"{low:.3g}"))]
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * factor for factor in (0.5, 1, 2, 5, 10)]
    index = next(i for i, size in enumerate(steps) if i and size >= rough * 0.999)
    for step in (steps[index], steps[index - 1]):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last > first:
            break  # one label alone is no scale
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [
        (index * step, without_negative_zero(f"{index * step:.{decimals}f}"))
        for index in range(first, last + 1)
    ]


def log_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Powers of ten between `low` and `high`; 1, 2 and 5 times them where there are few.

    Where not even those lie between, multiples as on a straight axis.
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first < 1:
        marks = [
            factor * 10.0**exponent
            for exponent in range(first - 1, last + 2)
            for factor in (1, 2, 5)
        ]
        marks = [value for value in marks if low <= value <= high]
        marks = marks or [value for value, _ in ticks(low, high, most)]
        return [(value, f"{value:.3g}") for value in marks]
    step = max(1, math.ceil((last - first + 1) / max(most, 1)))
    return [(10.0**exponent, power_of_ten(exponent)) for exponent in range(first, last + 1, step)]


def power_of_ten(exponent: int) -> str:
    """`0.01 .. 100` written out, others as 10 with a superscript."""
    if -2 <= exponent <= 2:
        return f"{10.0**exponent:g}"
    return f"10{str(exponent).translate(SUPERSCRIPTS)}"
