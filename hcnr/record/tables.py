"""Tables of text, which page, card and terminal show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

Interval = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """The numbers of a chart.

    Attributes:
        heads: column names; the first column names the row.
        rows: cells as text, one sequence per row, as long as `heads`.
        words: columns of words, which are set flush left; the first one always is.
        weights: of the rows; those of the largest are shown where a page is too short for all.
        first: what is shown then, and where all are, in words; "" shows every row.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()
    weights: Sequence[float | None] = ()
    first: str = ""

    def cut(self, most: int) -> "Table":
        """At most so many rows, if not all of them have to be shown."""
        if len(self.rows) <= most or not self.first:
            return self
        order = sorted(range(len(self.rows)), key=lambda row: -_rank(self.weights[row]))[:most]
        return replace(self, rows=[self.rows[row] for row in order], weights=())


def _rank(weight: float | None) -> float:
    """What is no number comes first, what is not known last."""
    if weight is None:
        return -math.inf
    return math.inf if math.isnan(weight) else weight
