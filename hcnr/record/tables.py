"""Tables of text, which page, card and terminal show."""

from collections.abc import Sequence
from dataclasses import dataclass

Interval = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """The numbers of a chart.

    Attributes:
        heads: column names; the first column names the row.
        rows: cells as text, one sequence per row, as long as `heads`.
        words: columns of words, which are set flush left; the first one always is.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()
