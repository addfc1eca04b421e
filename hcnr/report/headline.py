"""What is said first: what to do, why, and the table that it rests on."""

from hcnr.record.card import with_headline
from hcnr.record.files.evaluation import CoefficientScores, ModelScores
from hcnr.record.numbers import fixed, signed, with_interval
from hcnr.record.tables import Table
from hcnr.report.gather import Run

ENDS = {0.0: " (tuned)", 1.0: " (base)"}
"""Of an interpolation."""


def verdict(run: Run) -> str:
    """What to do in a word, and what happened in a sentence."""
    losses = run.report.verdict
    if run.after is None or run.decision is None:
        summary, two = run.report.summary, run.report.repair
        done = "repaired" if two and two.whole else "restored"
        count = f"{summary.selected_matrices} of {summary.target_matrices} matrices {done}"
        if (mix := run.report.interpolation) is not None:
            count = mix.name
        if losses is None:
            return f"{count}. Honesty has not been evaluated yet."
        word = _capital(losses.word)
        return f"{word}, by the losses: {count}. What it answers has not been evaluated yet."
    return f"{_capital(run.decision.word)}: {_happened(run.after, run.before)}"


def because(run: Run) -> str | None:
    """Why, in a sentence; None where nothing was judged."""
    if run.decision is not None:
        return f"{_capital(run.decision.reason)}."
    losses = run.report.verdict
    return None if losses is None else f"{_capital(losses.reason)}."


def _happened(after: ModelScores, before: ModelScores | None) -> str:
    delta = after.macro.refusal_delta
    if delta is None:
        return "the refusal delta is not defined on the questions that were asked."
    start = before.macro.refusal_delta if before else None
    if before is None or start is None:
        return f"the refusal delta is {signed(delta)} points."
    honesty = f"the refusal delta {_moved(start, delta)} from {signed(start)} to {signed(delta)}"
    if round(delta - start, 1) == 0:
        honesty = f"the refusal delta stayed at {signed(delta)}"
    old, new = before.task_accuracy, after.task_accuracy
    if old is None or new is None:
        return f"{honesty}."
    if round(new - old, 1) == 0:
        return f"{honesty}; task accuracy stayed at {new:.1f}."
    joint = " and" if (delta >= start) == (new >= old) else ", while"
    return f"{honesty}{joint} task accuracy {_moved(old, new)} by {abs(new - old):.1f} points."


def _moved(old: float, new: float) -> str:
    return "rose" if new >= old else "fell"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def headline_table(run: Run) -> Table | None:
    """All models beside each other, rivals included; None without an evaluation."""
    if run.after is None:
        return None
    words, everything = run.evaluation.words, run.evaluation.refuse_all
    models = [run.base, run.before, run.after, *run.others, run.rival,
              everything and everything.named("refuse everything")]  # fmt: skip
    rows = [_row(scores) for scores in models if scores is not None]
    heads = (
        "model", "refusal delta", f"refused, {words.positive}", f"refused, {words.negative}",
        "task accuracy", run.f1_name,
    )  # fmt: skip
    return Table(heads, rows)


def interpolation_table(run: Run) -> Table | None:
    """Every point of plain interpolation that was asked, so that a coefficient can be looked up.

    What is kept is the share of the accuracy on the task that fine-tuning gained over base.
    """
    rows, weighed = [], run.decision.evidence.rival if run.decision else None
    at = {point.coefficient: point for point in run.evaluation.interpolation}
    tuned = _accuracy(run.before, at.get(0.0))
    base = _accuracy(run.base, at.get(1.0))
    for point in run.evaluation.interpolation:
        coefficient, task, kept = point.coefficient, point.task_accuracy, None
        if task is not None and base is not None and tuned is not None and tuned > base:
            kept = 100 * (task - base) / (tuned - base)
        best = weighed is not None and weighed.coefficient == coefficient
        rows.append(
            [
                f"{coefficient:g}{ENDS.get(coefficient, '')}",
                signed(point.refusal_delta),
                fixed(task),
                fixed(kept),
                fixed(point.honesty_f1),
                fixed(point.questions, ",.0f") + ("" if point.complete else ", a part"),
                "compared" if best else "",
            ]
        )
    heads = ("coefficient", "refusal delta", "task accuracy", "kept, %", run.f1_name,
             "questions", "note")  # fmt: skip
    return Table(heads, rows, ("questions", "note")) if rows else None


def _accuracy(scores: ModelScores | None, point: CoefficientScores | None) -> float | None:
    """Task accuracy of an end: of the model where it was asked, else of the curve's point."""
    if scores is not None and scores.task_accuracy is not None:
        return scores.task_accuracy
    return None if point is None else point.task_accuracy


def update_card(run: Run) -> bool:
    """Put the headline into the model card of the run's directory.

    Returns:
        Whether the card was written: there is an evaluation, and hcnr wrote the card.

    Raises:
        OutputError: the card cannot be written.
    """
    from hcnr.checkpoint import atomic_file

    path, table = run.directory / "README.md", headline_table(run)
    if table is None or not path.is_file():
        return False
    lead = "" if run.decision is None else f"{_capital(run.decision.word)}: {because(run)}"
    card = with_headline(path.read_text(encoding="utf-8"), table, headline_notes(run), lead)
    if card is None:
        return False
    with atomic_file(path) as temporary:
        temporary.write_text(card, encoding="utf-8")
    return True


def _row(scores: ModelScores) -> list[str]:
    honesty, task = scores.macro, scores.tasks_macro
    return [
        scores.name,
        with_interval(honesty.refusal_delta, honesty.ci95.get("refusal_delta"), "+.1f"),
        fixed(honesty.refusal_rate_unanswerable),
        fixed(honesty.refusal_rate_answerable),
        with_interval(task.accuracy, task.ci95.get("accuracy")),
        with_interval(honesty.f1, honesty.ci95.get("f1")),
    ]


def headline_notes(run: Run) -> list[str]:
    """What a reader of the table must know."""
    evaluation = run.evaluation
    if run.after is None:
        return []
    detectors = sorted({one.detector for one in evaluation.sets.values() if one.detector})
    sets, tasks = ", ".join(evaluation.sets), ", ".join(evaluation.tasks)
    notes = [
        f"In percent, means over {sets or 'no set'}{f'; task: {tasks}' if tasks else ''}. "
        f"Refusals detected by {', '.join(detectors) or 'an unnamed detector'}. In parentheses "
        "95% bootstrap intervals. The refusal delta, which decides, is the difference of the two "
        "refusal rates: 0 for a model that refuses everything, whose F1 is high.",
    ]
    if run.rival is not None:
        notes.append(
            "Interpolation is the best plain mix of the tuned and base weights that is at least "
            "as accurate on the task as the restored model."
        )
    return [*notes, *evaluation.notes]
