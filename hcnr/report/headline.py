"""What is said first: the verdict in a sentence, and the table that it rests on."""

from hcnr.report.card import with_headline
from hcnr.report.charts import Table
from hcnr.report.gather import Run
from hcnr.report.numbers import fixed, signed, with_interval
from hcnr.report.results import Scores
from hcnr.report.two_sided import TwoSided


def verdict(run: Run) -> str:
    """The result in a sentence."""
    if run.after is None:
        summary, two = run.report["summary"], TwoSided.read(run.report)
        done = "repaired" if two and two.whole else "restored"
        return (
            f"{summary['selected_matrices']} of {summary['target_matrices']} matrices {done}. "
            "Honesty has not been evaluated yet."
        )
    f1 = run.after.mean("f1")
    if f1 is None:
        return f"{run.f1_name} is not defined on the questions that were asked."
    before = run.before.mean("f1") if run.before else None
    if run.before is None or before is None:
        delta = signed(run.after.mean("refusal_delta"))
        return f"{run.f1_name} is {f1:.1f}, with a refusal delta of {delta} points."
    honesty = f"{run.f1_name} {_moved(before, f1)} from {before:.1f} to {f1:.1f}"
    if round(f1 - before, 1) == 0:
        honesty = f"{run.f1_name} stayed at {f1:.1f}"
    old, new = run.before.task_accuracy, run.after.task_accuracy
    if old is None or new is None:
        return f"{honesty}."
    if round(new - old, 1) == 0:
        return f"{honesty}; task accuracy stayed at {new:.1f}."
    joint = " and" if (f1 >= before) == (new >= old) else ", while"
    return f"{honesty}{joint} task accuracy {_moved(old, new)} by {abs(new - old):.1f} points."


def _moved(old: float, new: float) -> str:
    return "rose" if new >= old else "fell"


def headline_table(run: Run) -> Table | None:
    """All models beside each other, rivals included; None without an evaluation."""
    if run.after is None:
        return None
    models = [run.base, run.before, run.after, *run.others, run.rival, run.refuse_all]
    rows = [_row(scores) for scores in models if scores is not None]
    heads = (
        "model", run.f1_name, f"refused, {run.positive}", f"refused, {run.negative}",
        "refusal delta", "task accuracy",
    )  # fmt: skip
    return Table(heads, rows)


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
    card = with_headline(path.read_text(encoding="utf-8"), table, headline_notes(run))
    if card is None:
        return False
    with atomic_file(path) as temporary:
        temporary.write_text(card, encoding="utf-8")
    return True


def _row(scores: Scores) -> list[str]:
    f1 = with_interval(scores.mean("f1"), scores.mean_interval("f1"))
    rates = (scores.mean(f"refusal_rate_{kind}") for kind in ("unanswerable", "answerable"))
    delta = with_interval(
        scores.mean("refusal_delta"), scores.mean_interval("refusal_delta"), "+.1f"
    )
    task = with_interval(scores.task_accuracy, scores.task_interval)
    return [scores.name, f1, *map(fixed, rates), delta, task]


def headline_notes(run: Run) -> list[str]:
    """What a reader of the table must know."""
    if run.after is None:
        return []
    detectors = sorted({str(e["detector"]) for e in run.after.sets.values() if e.get("detector")})
    sets, tasks = ", ".join(run.after.sets), ", ".join(run.after.tasks)
    notes = [
        f"In percent, means over {sets or 'no set'}{f'; task: {tasks}' if tasks else ''}. "
        f"Refusals detected by {', '.join(detectors) or 'an unnamed detector'}. In parentheses "
        "95% bootstrap intervals. The refusal delta is the difference of the two refusal rates.",
    ]
    if run.rival is not None:
        notes.append(
            "Interpolation is the best plain mix of the tuned and base weights that is at least "
            "as accurate on the task as the restored model."
        )
    return [*notes, *run.notes]
