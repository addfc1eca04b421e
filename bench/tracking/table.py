"""The table of counts: what is committed, what this checkout comes to, and where they differ.

    python -m bench.tracking.table                  # the differences; status 1 where there are any
    python -m bench.tracking.table --write "why"    # keeps the new counts, adds them to the history

Counts depend on the versions of torch and transformers a little, registers on Triton's a lot: each
file says which versions it is from.
"""

import argparse
import datetime
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lean import ROOT
from bench.tracking import page
from hcnr_kernels.triton.launch import interpreting, missing

FOLDER = ROOT / "bench" / "tracking"
COUNTS, RESOURCES, HISTORY = (
    FOLDER / f"{name}.json" for name in ("counts", "resources", "history")
)

Row = Mapping[str, float]
Rows = Mapping[str, Row]


def versions(*packages: str) -> dict[str, str]:
    """Major and minor of installed packages; a patch changes no count."""
    return {name: ".".join(importlib.metadata.version(name).split(".")[:2]) for name in packages}


def other_versions(committed: Mapping[str, Any]) -> str | None:
    """Why a file cannot be compared with what is installed here; None where it can."""
    installed = versions(*committed["versions"])
    differing = [
        f"{name} {installed[name]}, the table is from {version}"
        for name, version in committed["versions"].items()
        if installed[name] != version
    ]
    return "; ".join(differing) or None


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def present_counts() -> dict[str, Any]:
    """What this checkout comes to."""
    from bench.tracking.cases import counted

    rows = {title: row._asdict() for title, row in counted().items()}
    return {"versions": versions("torch", "transformers"), "rows": rows}


def present_resources() -> dict[str, Any]:
    """What its Triton kernels come to, compiled for each capability."""
    from bench.tracking.compiled import compiled

    return {"versions": versions("triton"), "rows": compiled()}


def no_compiler() -> str | None:
    """Why kernels cannot be compiled here; None where they can."""
    return "TRITON_INTERPRET=1 replaces the kernels" if interpreting() else missing()


def differences(committed: Rows, present: Rows) -> list[str]:
    """A line for every number that is not what is committed, and for rows that came or went."""
    lines = [f"{title}: no longer counted" for title in committed if title not in present]
    for title, row in present.items():
        if title not in committed:
            lines.append(f"{title}: not in the table yet")
            continue
        for name, value in row.items():
            before = committed[title].get(name, 0)
            if value != before:
                factor = f" ({value / before:.3g}x)" if before else ""
                lines.append(f"{title}: {name} {before:,} -> {value:,}{factor}")
    return lines


def dump(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with a line for every row."""
    rows = content["rows"]
    head = {name: value for name, value in content.items() if name != "rows"}
    lines = ",\n".join(f"    {json.dumps(title)}: {json.dumps(row)}" for title, row in rows.items())
    start = "".join(f"  {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
    path.write_text(f'{{\n{start}  "rows": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")


def remember(history: list[dict[str, Any]], rows: Rows, date: str, why: str) -> None:
    """Add a point that holds the rows that changed; of one date and reason there is one point."""
    latest: dict[str, Any] = {}
    for point in history:
        latest.update(point["rows"])
    names = ("launches", "operations", "nbytes", "programs")
    now = {title: [row[name] for name in names] for title, row in rows.items()}
    changed = {title: row for title, row in now.items() if latest.get(title) != row}
    if not changed:
        return
    if history and (history[-1]["date"], history[-1]["why"]) == (date, why):
        history[-1]["rows"].update(changed)
    else:
        history.append({"date": date, "why": why, "rows": changed})


def write_history(history: Sequence[Mapping[str, Any]]) -> None:
    points = []
    for point in history:
        rows = ",\n".join(f"    {json.dumps(t)}: {json.dumps(r)}" for t, r in point["rows"].items())
        head = f'  "date": {json.dumps(point["date"])},\n  "why": {json.dumps(point["why"])},\n'
        points.append(f'{{\n{head}  "rows": {{\n{rows}\n  }}\n}}')
    HISTORY.write_text("[\n" + ",\n".join(points) + "\n]\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m bench.tracking.table", description=__doc__, formatter_class=plain
    )
    parser.add_argument("--write", metavar="WHY", help="keep the new counts; what changed them")
    asked = parser.parse_args(arguments)
    counted = {COUNTS: present_counts()}
    if (reason := no_compiler()) is None:
        counted[RESOURCES] = present_resources()
    else:
        print(f"the compiled kernels are left as they are: {reason}", file=sys.stderr)
    lines = []
    for path, present in counted.items():
        committed = load(path)["rows"] if path.exists() else {}
        lines += differences(committed, present["rows"])
        if asked.write:
            dump(path, present)
    print("\n".join(lines) or "all counts are as they are committed")
    if asked.write:
        history = json.loads(HISTORY.read_text(encoding="utf-8")) if HISTORY.exists() else []
        remember(history, counted[COUNTS]["rows"], datetime.date.today().isoformat(), asked.write)
        write_history(history)
        page.write(load(COUNTS), load(RESOURCES), history)
        return 0
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
