"""What the page's template shows of a run: tables and sentences, no markup."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hcnr.record.command import restore_command
from hcnr.record.files.evaluation import ModelScores
from hcnr.record.files.sweep import SweepRecord
from hcnr.record.names import stem
from hcnr.record.numbers import NONE, fixed, signed
from hcnr.record.tables import Table
from hcnr.report.answers import SHOWN, answer_lists
from hcnr.report.drawing.charts import Chart
from hcnr.report.figures.models import all_charts
from hcnr.report.figures.sweep import differing_settings, setting_text
from hcnr.report.gather import Run
from hcnr.report.headline import (
    because,
    headline_notes,
    headline_table,
    interpolation_table,
    verdict,
)
from hcnr.report.repair import repair_words
from hcnr.report.signatures.outcomes import Signature
from hcnr.report.signatures.signatures import failure_signatures


@dataclass(frozen=True)
class Tile:
    """A number of the first lines.

    Attributes:
        name: what it is.
        value: as text.
        change: whether that is a gain or a loss, in a word.
        kind: `good`, `bad`, or empty where it is neither.
        note: what it is compared with.
    """

    name: str
    value: str
    change: str = ""
    kind: str = ""
    note: str = ""


KINDS = {"use": "good", "do not use": "bad", "interpolate instead": "open", "unclear": "open"}
"""How the word of a verdict is coloured."""


def view(run: Run, answers: int = SHOWN) -> dict[str, Any]:
    """Everything that the template knows, by name.

    Args:
        run: what is shown.
        answers: how many questions with their answers at most.
    """
    charts = all_charts(run)
    return {
        "run": run,
        "charts": charts,
        "verdict": verdict(run).partition(":"),
        "stance": _stance(run),
        "date": _date(run.report.date),
        "command": restore_command(run.report, run.name),
        "because": because(run),
        "names": {role: stem(getattr(run.report.pair, role)) for role in ("base", "tuned")},
        "tiles": tiles(run),
        "headline": headline_table(run),
        "interpolation": interpolation_table(run),
        "notes": headline_notes(run),
        "signatures": _by_state(failure_signatures(run)),
        "answers": answer_lists(run.judged, answers),
        "sweep": _sweep_words(run.sweep) if run.sweep else None,
        "ablation": _ablation(run),
        "boundary": run.probe and run.probe.sentence,
        "repair": repair_words(run),
        "uncompensated": run.report.config.compensation == "none",
        "origin": _origin(run),
        "missing": _missing(run, charts),
        "version": run.report.versions.get("hcnr", ""),
    }


def tiles(run: Run) -> list[Tile]:
    """The numbers that decide, and F1."""
    after, before = run.after, run.before
    if after is None:
        return []
    old = before.macro.refusal_delta if before else None
    delta, task = after.macro.refusal_delta, after.task_accuracy
    shown = [
        _tile("Refusal delta", old, delta, run.change("refusal_delta"), sign="+"),
        _tile(
            "Task accuracy", before.task_accuracy if before else None, task, run.change("accuracy")
        ),
    ]
    if run.rival is not None:
        shown.append(_rival_tile(run, run.rival))
    old, f1 = before.macro.f1 if before else None, after.macro.f1
    last = _tile(run.f1_name, old, f1, run.change("f1"))
    # It rises in a model that refuses everything too.
    return [*shown, replace(last, kind="") if last.kind == "good" else last]


def _tile(
    name: str, before: float | None, after: float | None,
    span: tuple[float, float] | None = None, sign: str = "",
) -> Tile:  # fmt: skip
    pattern = f"{sign}.1f"
    if before is None or after is None:
        return Tile(name, fixed(after, pattern))
    change = after - before
    kind, word = ("good", "a gain") if change > 0 else ("bad", "a loss")
    note = f"from {fixed(before, pattern)}"
    if span is not None:
        note += f" (95%: {signed(span[0])} to {signed(span[1])})"
        if span[0] <= 0 <= span[1]:
            kind, word = "", "within the noise"
    if round(change, 1) == 0:
        return Tile(name, fixed(after, pattern), "unchanged", note=note)
    return Tile(name, fixed(after, pattern), f"{signed(change)}, {word},", kind, note)


def _rival_tile(run: Run, rival: ModelScores) -> Tile:
    """What is to be beaten; whether it was is known where the decision is about the same one."""
    note = f"plain interpolation, task accuracy {fixed(rival.task_accuracy)}"
    change = kind = ""
    weighed = run.decision.evidence.rival if run.decision else None
    if weighed is not None and rival.name == f"interpolation ({weighed.coefficient:g})":
        kind = "good" if weighed.lead.shown else "bad"
        change = "beaten:" if weighed.lead.shown else "not shown to be beaten:"
    return Tile("Delta to beat", signed(rival.macro.refusal_delta), change, kind, note)


def _stance(run: Run) -> str:
    """How the verdict's word is coloured; empty where there is no verdict."""
    judged = run.decision or run.report.verdict
    return KINDS.get(judged.word, "") if judged else ""


def _date(value: str | None) -> str:
    """`27 November 2026, 14:05 UTC`; empty where the report is older than its date."""
    try:
        return datetime.fromisoformat(value or "").strftime("%d %B %Y, %H:%M %Z").lstrip("0")
    except ValueError:
        return ""


def _by_state(signatures: Sequence[Signature]) -> dict[str, list[Signature]]:
    """Checks that fired, those that did not, and those that nothing can be said about."""
    return {
        state: [one for one in signatures if one.state == state]
        for state in ("fired", "fine", "unknown")
    }


def _sweep_words(sweep: SweepRecord) -> dict[str, str]:
    """What is recommended and why, and what the sweep cost."""
    texts = {"word": "", "said": "", "cost": ""}
    if (choice := sweep.choice) is not None:
        keys = differing_settings(sweep.tried)
        words = [*(setting_text(one, keys) for one in sweep.best), choice.reason]
        sentence = ": ".join(filter(None, words))
        texts["word"] = f"On its validation questions the sweep says {choice.word}. "
        texts["said"] = f"{sentence[:1].upper()}{sentence[1:]}."
    if (ratio := sweep.cost.get("ratio")) is not None:
        models = len(sweep.candidates) + len(sweep.ablation)
        texts["cost"] = (
            f"{models} restored models cost {ratio:.2f} times one restoration, evaluation apart."
        )
    return texts


def _ablation(run: Run) -> Table | None:
    rows = [
        [one.name, signed(one.refusal_delta), fixed(one.task_accuracy), fixed(one.honesty_f1)]
        for one in (run.sweep.ablation if run.sweep else ())
    ]
    heads = ("ablation", "refusal delta", "task accuracy", f"{run.evaluation.trait} F1")
    return Table(heads, rows) if rows else None


def _origin(run: Run) -> dict[str, Any]:
    """Tables of where everything comes from, and the notes of the run."""
    report = run.report
    models = [
        [role, stem(getattr(report.pair, role)), report.pair.fingerprints.get(role, NONE)]
        for role in ("base", "tuned")
    ]
    data, hashes = [], []
    for name, source in report.data.items():
        data.append(
            [name, f"{source.samples:,}", f"{source.tokens:,}", stem(source.source or NONE)]
        )
        hashes.append([f"{name}, file", source.sha256 or NONE])
        hashes.append([f"{name}, tokens", source.tokens_sha256 or NONE])
    for name, source in run.evaluation.data.items():
        data.append([name, fixed(source.questions, ",.0f"), NONE, stem(source.source or NONE)])
        hashes.append([f"{name}, file", source.sha256 or NONE])
    # What an older version did not know was not set, whatever its default is today.
    known = report.config.model_dump(mode="json", exclude_unset=True)
    settings = [[key, str(value)] for key, value in known.items()]
    versions = [[key, version] for key, version in report.versions.items()]
    return {
        "models": Table(("model", "name", "fingerprint"), models, ("name", "fingerprint")),
        "data": Table(("data", "samples or questions", "tokens", "file"), data, ("file",)),
        "hashes": Table(("data", "SHA-256"), hashes, ("SHA-256",)),
        "settings": Table(("setting", "value"), settings, ("value",)),
        "versions": Table(("package", "version"), versions, ("version",)),
        "warnings": report.warnings,
    }


def _missing(run: Run, charts: dict[str, Chart]) -> list[tuple[str, str]]:
    """What the page could also show, and the command for it."""
    hints = {
        "honesty": ("honesty before and after", "hcnr evaluate"),
        "trade-off": ("honesty against task over many settings", "hcnr sweep"),
        "probe": ("whether the knowledge boundary survived fine-tuning", "hcnr probe"),
        "scores": ("the distributions of the Fisher scores", "hcnr report --statistics"),
    }
    two = run.report.repair
    if (two is not None and two.whole) or run.report.interpolation:
        del hints["scores"]  # these repairs take none
    return [hint for key, hint in hints.items() if key not in charts]
