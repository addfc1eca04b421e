"""The figures as Markdown, and the probes as a chart."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hcnr.checkpoint import atomic_file
from hcnr.demo.table import markdown
from hcnr.record.files.probe import ProbeRecord
from hcnr.report.drawing.files import save_chart
from hcnr.report.figures.models import probe_chart
from hcnr.report.page import style

_Row = Mapping[str, Any]
_NOT_ASKED = "not asked"


def write_page(results: Mapping[str, Any], out: Path) -> None:
    """Write `figures.md`, and `probe.svg` where there are probes.

    Args:
        results: what `figures.json` holds.
        out: the folder.

    Raises:
        OutputError: a file cannot be written.
    """
    with atomic_file(out / "figures.md") as temporary:
        temporary.write_text(to_markdown(results), encoding="utf-8")
    if results["probe"] is not None:
        chart = probe_chart(ProbeRecord.model_validate(results["probe"]).blocks)
        assert chart is not None
        save_chart(chart, out / "probe.svg", style())


def to_markdown(results: Mapping[str, Any]) -> str:
    """The page: what was done, a table for each figure, what was not run."""
    settings = results["settings"]
    sets = [str(name) for name in settings["asked"]]
    parts = [
        f"## The paper's figures, {settings['world']}, {settings['task']}, seed {settings['seed']}",
        f"```\n{settings['command']}\n```",
        _about(results),
        *_ends(results["ends"], sets),
        *_probe(results["probe"]),
        *_overlap(results["overlap"]),
        *_sweep(results["sweep"], sets),
        *_ablation(results["ablation"], sets),
        *_sizes(results["size"], sets),
        *_left(results["not_run"]),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _about(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    asked = ", ".join(f"{name} {count}" for name, count in settings["asked"].items())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"Figures of **validation questions** ({asked}; as many unanswerable as answerable, the "
        "first of the trial's): nothing is chosen by them and judged again. Brackets are 95 % "
        "intervals over these questions (bootstrap), about this one pair alone. kept: share of "
        "the fine-tuning's gain in likelihood of "
        f"{settings['task_questions']} held-out task answers; what keeps less than "
        f"{settings['least_kept']:g} % is asked nothing. ref. ans.: refusals of answerable "
        "questions. Rows keep different shares of the task, so a larger delta alone does not make "
        f"a row better. In percent and points. Overlap, sweep and ablation are measured on "
        f"{settings['samples']} samples of each set. {versions}."
    )


def _judged(
    heads: Sequence[str],
    rows: Sequence[_Row],
    sets: Sequence[str],
    cells: Callable[[_Row], list[str]],
) -> str:
    columns = (*heads, "kept", "delta", *sets, "ref. ans.", "F1")
    return markdown(columns, [(cells(row) + figure_cells(row, sets), False) for row in rows], [])


def figure_cells(row: _Row, sets: Sequence[str]) -> list[str]:
    """What a row of `figures_of` says, a cell each: kept, delta, the sets, refused, F1."""
    kept = "" if row["kept"] is None else f"{row['kept']:.1f}"
    if row["delta"] is None:
        return [kept, _NOT_ASKED, *("" for _ in sets), "", ""]
    low, high = row["ci95"]
    return [
        kept,
        f"{row['delta']:+.1f} ({low:+.1f} to {high:+.1f})",
        *(f"{row['sets'][name]:+.1f}" for name in sets),
        f"{row['refusal_answerable']:.1f}",
        f"{row['f1']:.1f}",
    ]


def _ends(ends: Mapping[str, _Row], sets: Sequence[str]) -> list[str]:
    if not ends:
        return []
    rows = [{"name": name, **row} for name, row in ends.items()]
    return ["### Base and tuned", _judged(("model",), rows, sets, lambda row: [row["name"]])]


def _probe(probe: _Row | None) -> list[str]:
    if probe is None:
        return []
    lines = [
        (
            [
                str(block["block"]),
                *(_auroc(block[name]) for name in ("base", "transfer", "tuned")),
                "" if block.get("cosine") is None else f"{block['cosine']:.2f}",
            ],
            block["block"] == probe["best_block"],
        )
        for block in probe["blocks"]
    ]
    data = probe["data"]
    return [
        "### Probes of base, asked about tuned",
        f"AUROC of linear probes on the last prompt token, held out in {probe['settings']['folds']}"
        f" folds, {data['unanswerable']} unanswerable and {data['answerable']} answerable "
        "questions that no model was trained on, before anything is restored. transfer: trained "
        f"on base, asked about tuned. {probe['sentence']}",
        "![AUROC by block](probe.svg)",
        markdown(("block", "base", "transfer", "tuned", "cosine"), lines, []),
    ]


def _auroc(row: _Row) -> str:
    return f"{row['auroc']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _overlap(rows: Sequence[_Row] | None) -> list[str]:
    if not rows:
        return []
    shares = [one["R_CW"] for one in rows[0]["matrices"] if one["R_CW"] < 1]
    heads = ("ranked by", "R_IW", "neurons", "lowest matrix",
             *(f"matrices, R_CW {share:g}" for share in shares),
             *(f"restored, R_CW {share:g}" for share in shares))  # fmt: skip
    lines = []
    for row in rows:
        by_share = [one for one in row["matrices"] if one["R_CW"] < 1]
        cells = [
            "priority" if row["priority"] == "kl" else "honesty alone",
            f"{row['R_IW']:g}",
            _beside(row["neurons"], row["neurons_chance"]),
            f"{100 * row['lowest']:.0f}",
            *(_beside(one["overlap"], one["chance"]) for one in by_share),
            *(_beside(one["restored"], one["restored_chance"]) for one in by_share),
        ]
        lines.append((cells, False))
    return [
        "### What two halves of the samples agree on",
        "Scores of two halves of the samples, both half refusals. neurons: share of one half's "
        "candidates that the other half has too, mean over the matrices; matrices: "
        "the same of the most perturbed matrices; restored: the same of the neurons inside them. "
        "In percent, in brackets what random choices of as many give.",
        markdown(heads, lines, []),
    ]


def _beside(value: float, chance: float) -> str:
    return f"{100 * value:.0f} ({100 * chance:.0f})"


def _sweep(rows: Sequence[_Row], sets: Sequence[str]) -> list[str]:
    if not rows:
        return []
    table = _judged(
        ("R_IW", "R_CW"), rows, sets, lambda row: [f"{row['R_IW']:g}", f"{row['R_CW']:g}"]
    )
    return ["### Shares of neurons and of matrices, `sum`", table]


def _ablation(rows: Sequence[_Row], sets: Sequence[str]) -> list[str]:
    if not rows:
        return []
    table = _judged(
        ("way", "neurons", "delta over random neurons"), rows, sets,
        lambda row: [row["way"], row["neurons"], _over_random(row)],
    )  # fmt: skip
    return [
        "### What of the method is needed, all matrices, half of the neurons",
        table,
        "delta over random neurons: of the same way, paired over the questions; what both keep of "
        "the task stands in their rows.",
    ]


def _over_random(row: _Row) -> str:
    if "over_random" not in row:
        return ""
    low, high = row["over_random_ci95"]
    return f"{row['over_random']:+.1f} ({low:+.1f} to {high:+.1f})"


def _sizes(rows: Sequence[_Row], sets: Sequence[str]) -> list[str]:
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: (row["way"], row["samples"]))
    table = _judged(
        ("way", "samples of each set"), ordered, sets,
        lambda row: [row["way"], f"{row['samples']}"],
    )  # fmt: skip
    return ["### How many samples, all matrices", table]


def _left(names: Sequence[str]) -> list[str]:
    return ["### Not run", "; ".join(names) + "."] if names else []
