"""What the page says about a two-sided repair, beside its charts."""

from hcnr.record.numbers import short
from hcnr.record.tables import Table
from hcnr.record.two_sided import TwoSidedRecord
from hcnr.record.two_sided_text import (
    key_facts,
    kind_text,
    passes_sentence,
    search_sentence,
    search_table,
    steps_sentence,
    steps_table,
)
from hcnr.report.drawing.markup import Markup, element
from hcnr.report.gather import Run
from hcnr.report.parts import table

NO_TRAINING = ". No training was involved."
GIVEN_BACK = " with part of what fine-tuning changed given back to "
STEPS = "natural steps down the honesty loss"
LEADS = {
    "spectral": (GIVEN_BACK, NO_TRAINING),
    "natural": (f" after {STEPS}; its base is ", "."),
    "spectral+natural": (GIVEN_BACK, f", and then {STEPS}."),
}
"""What stands between the names of tuned and base in the first lines of the page, and after."""


def lead(two: TwoSidedRecord | None) -> tuple[str, str]:
    """What was done, around the name of base."""
    if two is None or not two.whole:
        return " with some of its neurons restored to ", NO_TRAINING
    return LEADS.get(two.kind, (" repaired towards ", "."))


def restored_matrices(run: Run, two: TwoSidedRecord) -> Markup:
    """Which matrices were repaired, how, and the numbers that sum it up."""
    summary = run.report["summary"]
    share = summary["restored_parameters"] / max(summary["target_parameters"], 1)
    return element(
        "p",
        f"{summary['selected_matrices']} of {summary['target_matrices']} matrices were repaired as "
        f"a whole ({two.kind.replace(',', ', then ')}), {summary['restored_parameters']:,} "
        f"parameters, {share:.1%} of the targets: {kind_text(two)}",
    )


def summary_table(two: TwoSidedRecord) -> Markup | None:
    """Task weight, restored directions and steps."""
    rows = [[name, text] for name, text in key_facts(two).items()]
    if not rows:
        return None
    return table(Table(("repair", two.kind), rows, (two.kind,)), "The repair in numbers")


def search_and_steps(two: TwoSidedRecord) -> list[Markup]:
    """How the task weight was found, and what the natural steps did."""
    found = (
        ("Search for the task weight", search_sentence(two), search_table(two),
         short(two.task_weight)),
        ("Natural steps", steps_sentence(two), steps_table(two), None),
    )  # fmt: skip
    parts = []
    for title, sentence, data, strong in found:
        if sentence:
            parts += [element("h3", title, class_="apart"), element("p", sentence)]
        if data is not None:
            parts.append(table(data, title, strong=strong))
    return parts


def passes(two: TwoSidedRecord) -> Markup | None:
    """What measuring took."""
    said = passes_sentence(two)
    return element("p", said, class_="quiet") if said else None
