"""What a row of the report is about, and rows that follow from others; needs no torch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Record = dict[str, Any]


class Goal(NamedTuple):
    """One number that a row is about, what it should be, and what was expected of it beforehand.

    Attributes:
        what: In words.
        figure: The number from the record.
        target: What it should reach; None where it is only reported.
        prediction: Written down before the first measurement, for an H100.
        at_most: Whether it should stay below the target.
    """

    what: str
    figure: Callable[[Record], float]
    target: float | None = None
    prediction: float | None = None
    at_most: bool = False

    def judged(self, record: Record) -> Record:
        return judged(self.what, self.figure(record), self.target, self.prediction, self.at_most)


def judged(
    what: str,
    value: float | None,
    target: float | None = None,
    prediction: float | None = None,
    at_most: bool = False,
) -> Record:
    """A goal with its value, ready for the report."""
    text, met = "", None
    if target is not None and value is not None:
        text = f"{'<=' if at_most else '>='} {target:g}"
        met = value <= target if at_most else value >= target
    return {"what": what, "value": value, "target": text, "met": met, "prediction": prediction}


def derived(records: Sequence[Record]) -> list[Record]:
    """Rows over all records, whichever processes and runs they come from."""
    rows = []
    same = [record["deterministic"] for record in records if "deterministic" in record]
    if same:
        rows.append(
            {
                "title": "determinism",
                "shape": f"{len(same)} cases, two runs each",
                "goal": judged("share of cases with equal bits", sum(same) / len(same), 1.0, 1.0),
            }
        )
    ratios = {record["width"]: record["width_ratio"] for record in records if "width" in record}
    if ratios:
        rows.append(_crossover(ratios))
    return [{"section": "derived", **row} for row in rows]


def _crossover(ratios: dict[int, float]) -> Record:
    """From which of the measured widths on `gram_` is not slower than its rival."""
    slower = [width for width, ratio in ratios.items() if ratio < 1]
    first = min((w for w in ratios if w > max(slower, default=0)), default=None)
    listed = ", ".join(f"{width}: {ratio:.2f}x" for width, ratio in sorted(ratios.items()))
    return {
        "title": "gram_, crossover",
        "shape": listed,
        "goal": judged("width from which gram_ is not slower", first, prediction=1024.0),
    }
