"""The results of `make gpu` as JSON, as a Markdown table, and on a terminal."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

HEADS = ("what", "shape", "ms (p20 - p80)", "floor ms", "time / floor", "rivals", "goal",
         "target", "met", "predicted")  # fmt: skip


MOSTLY = 0.5
"""Of its runs, in which a call was enqueued before the device began, for its time to be the
device's."""


def slug(device: str) -> str:
    """A file name for a device: lower case, words joined by dashes."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"


def cells(record: Mapping[str, Any]) -> list[str]:
    """One row of the table."""
    goal, ms = record.get("goal", {}), record.get("ms")
    timed = floor = over = ""
    if ms is not None:
        timed = f"{number(ms['p50'])} ({number(ms['p20'])} - {number(ms['p80'])})"
        if ms.get("ahead", 1.0) < MOSTLY:
            timed += f", host {number(ms['host'])}"
    if "floor_ms" in record:
        floor = f"{number(record['floor_ms'])} ({record['floor_by']})"
        over = number(record["over_floor"])
    rivals = ", ".join(
        f"{name} {rival['ratio']:.2f}x" for name, rival in record.get("rivals", {}).items()
    )
    met = {True: "yes", False: "**no**", None: ""}[goal.get("met")]
    what = goal.get("what", "")
    if goal:
        what = f"{what}: {number(goal['value'])}"
    if "failed" in record:
        what, met = f"FAILED: {record['failed']}", "**no**"
    return [
        record["title"], record.get("shape", ""), timed, floor, over, rivals, what,
        goal.get("target", ""), met, number(goal.get("prediction")),
    ]  # fmt: skip


def line(record: Mapping[str, Any]) -> str:
    """One record on one line of the terminal."""
    title, shape, timed, floor, over, rivals, goal, target, met, predicted = cells(record)
    parts = [f"{title} [{shape}]" if shape else title]
    if timed:
        parts.append(f"{timed} ms" + (f", {over}x its floor of {floor}" if floor else ""))
    if rivals:
        parts.append(rivals)
    if goal:
        wanted = f" (target {target}: {'met' if met == 'yes' else 'NOT MET'})" if target else ""
        guessed = f", predicted {predicted}" if predicted else ""
        parts.append(f"{goal}{wanted}{guessed}")
    return "; ".join(parts)


def compact(records: Sequence[Mapping[str, Any]]) -> str:
    """The results on the terminal, a line each; rivals and what a goal is are in the files."""
    rows = [f"{'':76} {'ms':>9} {'/floor':>7} {'goal':>8} {'target':>9} met {'guess':>8}"]
    for record in records:
        goal, ms = record.get("goal", {}), record.get("ms", {})
        name = f"{record['title']} [{record.get('shape', '')}]"
        met = {True: "yes", False: "NO"}.get(goal.get("met"), "")
        rows.append(
            f"{name[:76]:76} {number(ms.get('p50')):>9} {number(record.get('over_floor')):>7} "
            f"{number(goal.get('value')):>8} {goal.get('target', ''):>9} {met:3} "
            f"{number(goal.get('prediction')):>8} {'FAILED' if 'failed' in record else ''}".rstrip()
        )
    return "\n".join(rows)


def markdown(result: Mapping[str, Any]) -> str:
    """The whole result."""
    device = result["device"]
    rows = [
        f"# {device['name']}",
        "",
        "Written by `make gpu`. Times are medians of interleaved runs on a cold cache; floors come",
        "from the ceilings measured in the same process; rivals are their time over ours, so more",
        "than 1 means that ours is faster. Predictions were written before the first measurement.",
        "Where a time names the host's, launching or waiting took part in it.",
        "",
        *(f"- {name}: {value}" for name, value in device.items()),
        *_runs(result.get("runs", ())),
        "",
        "| section | result | seconds |",
        "|---|---|---:|",
        *(
            f"| {name} | {found['status']} | {found['seconds']:.0f} |"
            for name, found in result["sections"].items()
        ),
        "",
        f"| {' | '.join(HEADS)} |",
        "|" + "---|" * len(HEADS),
    ]
    for record in result["records"]:
        rows.append("| " + " | ".join(cell.replace("|", "/") for cell in cells(record)) + " |")
    notes = [
        f"- {record['title']}: {record['note']}"
        for record in result["records"]
        if record.get("note")
    ]
    return "\n".join([*rows, "", *notes]).rstrip() + "\n"


def _runs(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Where and when the rows were measured, if not by one command."""
    if len(runs) < 2:
        return []
    parts = [
        " ".join(run[fact] for fact in ("name", "date", "commit") if fact in run) for run in runs
    ]
    return [f"- measured by {len(runs)} commands: {'; '.join(parts)}"]


def as_json(result: Mapping[str, Any]) -> str:
    return json.dumps(result, indent=1) + "\n"
