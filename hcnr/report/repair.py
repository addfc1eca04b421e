"""What the page says about the repair itself, beside its charts."""

from dataclasses import dataclass, field

from hcnr.record.files.restoration import Interpolated
from hcnr.record.files.two_sided import TwoSidedRecord
from hcnr.record.interpolation_text import HOW
from hcnr.record.interpolation_text import key_facts as mixing_facts
from hcnr.record.interpolation_text import search_sentence as mixing_search
from hcnr.record.numbers import fixed, short
from hcnr.record.tables import Table
from hcnr.record.two_sided_text import (
    key_facts,
    kind_text,
    passes_sentence,
    search_sentence,
    search_table,
    steps_sentence,
    steps_table,
)
from hcnr.report.gather import Run

NO_TRAINING = ". No training was involved."
GIVEN_BACK = " with part of what fine-tuning changed given back to "
STEPS = "natural steps down the honesty loss"
LEADS = {
    "spectral": (GIVEN_BACK, NO_TRAINING),
    "natural": (f" after {STEPS}; its base is ", "."),
    "spectral+natural": (GIVEN_BACK, f", and then {STEPS}."),
}
"""What stands between the names of tuned and base in the first lines of the page, and after."""


@dataclass(frozen=True)
class RepairPart:
    """A heading of its own: a sentence and a table, one row of which may stand out."""

    title: str
    sentence: str
    table: Table | None
    strong: str | None = None


@dataclass(frozen=True)
class RepairWords:
    """What was done, in words.

    Attributes:
        lead: around the name of base: what was done to tuned, and what comes after.
        sentence: the same with its numbers.
        title: of the section.
        facts: the numbers that sum it up.
        left: what stayed as tuned.
        parts: how it was searched for, and its steps.
        passes: what measuring took.
    """

    lead: tuple[str, str]
    sentence: str
    title: str = "What was restored"
    facts: Table | None = None
    left: str = ""
    parts: list[RepairPart] = field(default_factory=list)
    passes: str = ""


def repair_words(run: Run) -> RepairWords:
    """What the page says about the repair of a run."""
    two = run.report.repair
    if (mix := run.report.interpolation) is not None:
        return _mixed(mix)
    if two is None:
        return RepairWords((" with some of its neurons restored to ", NO_TRAINING), _neurons(run))
    facts = key_facts(two)
    common = {
        "facts": _facts(facts, two.kind) if facts else None,
        "parts": _parts(two),
        "passes": passes_sentence(two),
    }
    if not two.whole:
        lead = (" with some of its neurons restored to ", NO_TRAINING)
        return RepairWords(lead, _neurons(run), **common)
    lead = LEADS.get(two.kind, (" repaired towards ", "."))
    return RepairWords(lead, _matrices(run, two), "What was repaired", **common)


def _facts(facts: dict[str, str], kind: str) -> Table:
    return Table(("repair", kind), [[name, text] for name, text in facts.items()], (kind,))


def _neurons(run: Run) -> str:
    summary, config = run.report.summary, run.report.config
    overlap, chance = summary.mean_half_overlap, summary.half_overlap_by_chance
    agreement = ""
    if overlap is not None and chance is not None:
        agreement = (
            f" Two halves of the samples agree on {overlap:.0%} of the candidate neurons "
            f"({chance:.0%} by chance)."
        )
    return (
        f"{summary.restored_neurons:,} neurons along the {config.axis} axis, in "
        f"{summary.selected_matrices} of {summary.target_matrices} matrices: "
        f"{_parameters(run)}.{agreement}"
    )


def _matrices(run: Run, two: TwoSidedRecord) -> str:
    summary = run.report.summary
    return (
        f"{summary.selected_matrices} of {summary.target_matrices} matrices were repaired as "
        f"a whole ({two.kind.replace(',', ', then ')}), {_parameters(run)}: {kind_text(two)}"
    )


def _parameters(run: Run) -> str:
    summary = run.report.summary
    count, whole = summary.restored_parameters, summary.target_parameters
    return f"{count:,} parameters, {count / max(whole, 1):.1%} of the targets"


def _parts(two: TwoSidedRecord) -> list[RepairPart]:
    search = RepairPart("Search for the task weight", search_sentence(two), search_table(two),
                  short(two.task_weight))  # fmt: skip
    steps = RepairPart("Natural steps", steps_sentence(two), steps_table(two))
    return [part for part in (search, steps) if part.sentence or part.table]


def _mixed(mix: Interpolated) -> RepairWords:
    """Plain interpolation as a repair."""
    rows = [
        [short(trial.coefficient), fixed(trial.retention), "yes" if trial.kept else "no",
         "yes" if trial.coefficient == mix.coefficient else ""]
        for trial in sorted(mix.search, key=lambda trial: trial.coefficient)
    ]  # fmt: skip
    table = Table(("coefficient c", "task gain kept, %", "enough", "used"), rows)
    search = RepairPart("Search for the coefficient", mixing_search(mix), table,
                  short(mix.coefficient))  # fmt: skip
    left = ", ".join(mix.left)
    return RepairWords(
        (" interpolated towards ", "."),
        f"{HOW[:1].upper()}{HOW[1:]}, norms, embeddings and the head included.",
        facts=_facts(mixing_facts(mix), "interpolate"),
        left=f"As tuned stay: {left}: base lacks them, or their shape." if left else "",
        parts=[search] if rows else [],
    )
