"""A repair of whole matrices in words, for the page, the model card and the terminal."""

from hcnr.record.files.two_sided import TwoSidedRecord
from hcnr.record.numbers import NONE, fixed, short
from hcnr.record.tables import Table

LOSS = ".4g"
KINDS = {
    "spectral": "in every direction the share of the change that its task curvature earns against "
    "its honesty curvature was kept, and the rest given back to base",
    "natural": "natural steps were taken down the honesty loss, shortened where the task would "
    "feel them",
    "spectral+natural": "in every direction the share of the change that its task curvature earns "
    "against its honesty curvature was kept, and from there natural steps were taken down the "
    "honesty loss",
}
"""What each kind does, method.md (10) and (12), as the end of a sentence."""


def key_facts(two: TwoSidedRecord) -> dict[str, str]:
    """What a summary says, by name: the task weight, what was restored, the steps."""
    facts = {}
    if two.task_weight is not None:
        count = len(two.search)
        searched = f" (found by a search, {count} tried)" if count else ""
        facts["task weight mu"] = f"{short(two.task_weight)}{searched}"
    if two.restored_share is not None:
        facts["directions restored"] = (
            f"{fixed(two.restored_directions, ',.0f')} in effect ({two.restored_share:.1%} of "
            "those of the repaired matrices)"
        )
    if two.steps:
        first, last = two.steps[0].honesty_loss, two.steps[-1].after
        facts["natural steps"] = (
            f"{len(two.steps)}, honesty loss {fixed(first, LOSS)} to {fixed(last, LOSS)}"
        )
    return facts


def kind_text(two: TwoSidedRecord) -> str:
    """What the kind does, the end of a sentence."""
    return f"{KINDS.get(two.kind, 'the kind is ' + two.kind)}."


def search_sentence(two: TwoSidedRecord) -> str:
    """How the task weight was found; empty where it was given."""
    if not two.search:
        return ""
    chosen, count = two.chosen, len(two.search)
    weights = f"{count} task weight{'s' if count > 1 else ''}"
    wanted = (
        "enough" if two.max_task_drop_percent is None else f"{100 - two.max_task_drop_percent:g}%"
    )
    gain = "of what fine-tuning had gained in likelihood"
    if two.held_back:
        gain += f" on {two.held_back} task samples that were held back from measuring"
    if not any(trial.kept for trial in two.search):
        return f"None of {weights} keeps {wanted} {gain}; mu = {short(two.task_weight)} was used."
    smallest = min(trial.task_weight for trial in two.search if trial.kept)
    if chosen is not None and chosen.task_weight == smallest:
        return f"mu = {short(smallest)} is the smallest of {weights} that keeps {wanted} {gain}."
    return f"Of {weights} mu = {short(two.task_weight)} was used; wanted was {wanted} {gain}."


def search_table(two: TwoSidedRecord) -> Table | None:
    """Task weights from small to large; None where mu was given."""
    if not two.search:
        return None
    rows = [
        [short(trial.task_weight), fixed(trial.retention, ".1f"), "yes" if trial.kept else "no",
         "yes" if trial is two.chosen else ""]
        for trial in sorted(two.search, key=lambda trial: trial.task_weight)
    ]  # fmt: skip
    return Table(("task weight mu", "task gain kept, %", "enough", "used"), rows)


def steps_sentence(two: TwoSidedRecord) -> str:
    """What the natural steps did; empty for a kind without them."""
    if not two.steps:
        ended = "natural" in two.kind and two.honesty_loss is not None
        return "No natural step was made: the honesty loss has no gradient." if ended else ""
    count, first, last = len(two.steps), two.steps[0].honesty_loss, two.steps[-1].after
    steps = "The natural step" if count == 1 else f"{count} natural steps"
    if first is None or last is None:
        return f"{steps} ran; the honesty loss after the last is not known."
    moved = "lowered" if last < first else "raised"
    if last == first:
        return f"{steps} left the mean honesty loss at {fixed(last, LOSS)}."
    rose = [str(step.step) for step in two.steps if step.rose]
    but = ""
    if rose and count > 1:
        but = f"; it rose in step{'s' if len(rose) > 1 else ''} {', '.join(rose)}"
    return (
        f"{steps} {moved} the mean honesty loss from {fixed(first, LOSS)} to {fixed(last, LOSS)}"
        f"{but}."
    )


def steps_table(two: TwoSidedRecord) -> Table | None:
    """One row per step; None where there were none."""
    if not two.steps:
        return None
    rows = [
        [str(step.step), fixed(step.honesty_loss, LOSS), fixed(step.after, LOSS),
         short(step.length),
         NONE if step.share is None else f"{step.share:.1%}"]
        for step in two.steps
    ]  # fmt: skip
    heads = ("step", "honesty loss before", "after", "length", "share of fine-tuning's change")
    return Table(heads, rows)


def passes_sentence(two: TwoSidedRecord) -> str:
    """What measuring took; empty where it is not known."""
    if not two.passes:
        return ""
    groups = ""
    if two.groups is not None and two.groups > 1:
        groups = f", for {two.groups} groups of matrices one after the other"
    return f"Measuring took {two.passes} pass{'' if two.passes == 1 else 'es'}{groups}."
