"""docs/performance.md and its plot: what a marker encloses comes from the committed counts."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lean import ROOT
from bench.tracking.elimination import elimination, rival
from bench.tracking.model import stages
from bench.tracking.plot import plotted

PAGE = ROOT / "docs" / "performance.md"
PEAK = 60e12
"""Operations a second of an H100 in fp32."""
PLOT = ROOT / "docs" / "performance-history.svg"

History = Sequence[Mapping[str, Any]]


def number(value: float) -> str:
    """Three digits and a prefix of the SI: 9621 is 9.62 k."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.3g} {prefix}"
    return f"{value:g}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def _stages(counts: Mapping[str, Any]) -> str:
    rows = [
        [
            stage.name,
            f"{stage.floor:g}" if stage.floor else "-",
            "-" if stage.target is None else f"{stage.target:g}",
            f"{stage.model:.2g}",
            stage.limit,
            str(stage.launches) if stage.launches else "-",
            "no card yet",
        ]
        for stage in stages(counts)
    ]
    whole = sum(stage.model for stage in stages(counts))
    rows.append(["**compute**", "4", "8", f"**{whole:.2g}**", "", "", "no card yet"])
    head = ["stage", "floor s", "target s", "model s", "limited by", "launches", "measured s"]
    return markdown(head, rows)


def _inverses() -> str:
    """One damped inverse by width, beside torch's routes."""
    rows = []
    for width in (1024, 4096, 8192, 14336):
        ours, torchs = elimination(width), rival(width)
        cells = [1e3 * width**3 / PEAK, 1e3 * ours.products, 1e3 * ours.diagonal, 1e3 * ours.host]
        theirs = [1e3 * torchs.operations, 1e3 * torchs.model, 1e3 * torchs.lu]
        rows.append(
            [
                str(width),
                *(f"{cell:.2g}" for cell in cells),
                f"**{1e3 * ours.model:.2g}**",
                ours.limit,
                *(f"{cell:.3g}" for cell in theirs),
                f"**{torchs.model / ours.model:.1f}x**",
                f"{torchs.operations / ours.model:.1f}x",
            ]
        )
    head = [
        "d", "floor ms", "products ms", "diagonal ms", "host ms", "model ms", "limited by",
        "torch's operations ms", "torch ms", "`linalg.inv`'s operations ms", "ratio",
        "to its operations alone",
    ]  # fmt: skip
    return markdown(head, rows)


def _versions(content: Mapping[str, Any]) -> str:
    return (
        f"With {', '.join(f'{name} {version}' for name, version in content['versions'].items())}."
    )


def _counts(counts: Mapping[str, Any]) -> str:
    names = ("launches", "operations", "nbytes", "programs", "waits")
    rows = [
        [title, *(number(row[name]) if row[name] else "-" for name in names)]
        for title, row in counts["rows"].items()
    ]
    head = ["call", "launches", "operations", "bytes", "programs", "waits"]
    return f"{_versions(counts)}\n\n{markdown(head, rows)}"


def _resources(resources: Mapping[str, Any]) -> str:
    names = ("registers", "spills", "shared", "instructions")
    rows = [
        [f"`{title}`", *(f"{row[name]:g}" for name in names)]
        for title, row in resources["rows"].items()
    ]
    head = ["kernel, its constants and chip", "registers", "spilled B", "shared B", "instructions"]
    return f"{_versions(resources)}\n\n{markdown(head, rows)}"


def _changes(history: History) -> str:
    """What every later point of the history changed."""
    latest: dict[str, Sequence[float]] = {}
    rows = []
    for point in history:
        for title, now in point["rows"].items():
            before = latest.get(title)
            if before is not None:
                moved = [
                    f"{number(old)} -> {number(new)}" if old != new else number(new)
                    for old, new in zip(before[:3], now[:3], strict=True)
                ]
                rows.append([point["why"], title, *moved])
            latest[title] = now
    head = ["what changed", "call", "launches", "operations", "bytes"]
    return markdown(head, rows) if rows else "Nothing has changed since the table was begun."


def generated(
    counts: Mapping[str, Any], resources: Mapping[str, Any], history: History
) -> dict[str, str]:
    """What stands between the markers of the page, by marker."""
    return {
        "stages": _stages(counts),
        "inverses": _inverses(),
        "changes": _changes(history),
        "counts": _counts(counts),
        "resources": _resources(resources),
    }


def fill(text: str, parts: Mapping[str, str]) -> str:
    """The page with its parts replaced.

    Raises:
        ValueError: a marker is missing.
    """
    for name, part in parts.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(
            lambda match, part=part: f"{match[1]}\n{part}\n\n{match[2]}", text
        )
        if count != 1:
            raise ValueError(f"the page has no markers <!-- {name} --> and <!-- /{name} -->")
    return text


def write(
    counts: Mapping[str, Any], resources: Mapping[str, Any], history: History, page: Path = PAGE
) -> None:
    """Generate the page's tables and the plot again."""
    text = page.read_text(encoding="utf-8")
    page.write_text(fill(text, generated(counts, resources, history)), encoding="utf-8")
    PLOT.write_text(plotted(history), encoding="utf-8")
