"""Failure signatures of two-sided repairs: search, natural steps, curvature of both axes."""

from collections.abc import Callable, Mapping
from statistics import fmean

from hcnr.record.files.two_sided import AXES, Both, TwoSidedRecord
from hcnr.record.numbers import fixed, short
from hcnr.record.two_sided_text import LOSS
from hcnr.repair.task_weight import LARGEST, SMALLEST
from hcnr.report.signatures.outcomes import FINE, HIGHEST_CONDITION, UNKNOWN, Outcome

MOST_HONESTY_LEFT = 0.9
"""Share of the honesty term above which the spectral repair left nearly all as it was tuned."""
LEAST_PROGRESS = 0.01
"""Share of the honesty loss that natural steps should lower at the very least."""


def _search_high(two: TwoSidedRecord) -> Outcome:
    if not two.search:
        return None
    if two.task_weight is None or two.max_task_drop_percent is None:
        return UNKNOWN
    if two.task_weight < LARGEST / 10:
        return FINE
    return (
        f"It takes mu = {short(two.task_weight)} to keep {100 - two.max_task_drop_percent:g}% of "
        f"the task's likelihood gain; the search ends at {short(LARGEST)}.",
        f"Little of honesty can come back at that: allow a larger --max-task-drop-percent (it is "
        f"{two.max_task_drop_percent:g}), repair fewer matrices (a lower --cross-weight-ratio), or "
        "measure on more task samples (--samples).",
    )


def _search_low(two: TwoSidedRecord) -> Outcome:
    if not two.search:
        return None
    if two.task_weight is None:
        return UNKNOWN
    if two.task_weight > SMALLEST:
        return FINE
    return (
        f"Even mu = {short(two.task_weight)}, where the search ends, keeps enough of the task.",
        "The task samples do not limit the repair: check that they are what tuned was trained "
        "for, or give a smaller --task-weight.",
    )


def _step_rose(two: TwoSidedRecord) -> Outcome:
    if not two.steps:
        return None
    rose = [step for step in two.steps if step.rose]
    if not rose:
        known = all(s.honesty_loss is not None and s.after is not None for s in two.steps)
        return FINE if known else UNKNOWN
    worst = max(rose, key=lambda step: (step.after or 0.0) - (step.honesty_loss or 0.0))
    size = "" if worst.share is None else f" (it was {worst.share:.2g})"
    return (
        f"The honesty loss rose in natural step {worst.step} of {len(two.steps)}, from "
        f"{fixed(worst.honesty_loss, LOSS)} to {fixed(worst.after, LOSS)}.",
        "The step is longer than the curvature holds for: restore with a smaller --step-size"
        f"{size}" + (", or with fewer --steps." if worst.step > 1 else "."),
    )


def _no_progress(two: TwoSidedRecord) -> Outcome:
    if not two.steps:
        return None
    first, last = two.steps[0].honesty_loss, two.steps[-1].after
    if first is None or last is None:
        return UNKNOWN
    if any(step.rose for step in two.steps) or first - last >= LEAST_PROGRESS * abs(first):
        return FINE
    return (
        f"{len(two.steps)} natural step{'s' if len(two.steps) > 1 else ''} lowered the honesty "
        f"loss only from {fixed(first, LOSS)} to {fixed(last, LOSS)}.",
        "Take more or longer ones (--steps, --step-size), or let the task weigh less (a smaller "
        "--task-weight).",
    )


def _left(two: TwoSidedRecord) -> Outcome:
    if two.kind != "spectral":
        return None
    shares = [m.honesty_left for m in two.matrices.values() if m.honesty_left is not None]
    if not shares:
        return UNKNOWN
    if fmean(shares) <= MOST_HONESTY_LEFT:
        return FINE
    return (
        f"{fmean(shares):.0%} of the honesty term is left, the mean over {len(shares)} matrices: "
        "they are nearly as they were tuned.",
        f"Use a smaller --task-weight (mu was {short(two.task_weight)}), or go on with natural "
        "steps (--compensation spectral+natural).",
    )


def _by_axis(both: Mapping[str, Both]) -> dict[tuple[str, str], float]:
    """What is known of the two axes of every matrix, by its name and the axis."""
    return {
        (name, axis): value
        for name, values in both.items()
        for axis, value in zip(AXES, values, strict=True)
        if value is not None
    }


def _damping(two: TwoSidedRecord) -> Outcome:
    if not two.whole:
        return None
    known = _by_axis({name: matrix.damping for name, matrix in two.matrices.items()})
    if not known:
        return UNKNOWN
    raised = [name for name, matrix in two.matrices.items() if matrix.raised]
    if not raised:
        return FINE
    name, axis = max(known, key=lambda where: known[where])
    return (
        f"Damping was raised for {len(raised)} of {len(two.matrices)} matrices, the highest to "
        f"{short(known[name, axis])} on the {axis} axis of {name}.",
        "The curvature of both data sets is too poor to factorise as it is: use more samples, or a "
        "larger --damping for all.",
    )


def _condition(two: TwoSidedRecord) -> Outcome:
    if not two.whole:
        return None
    known = _by_axis({name: matrix.condition for name, matrix in two.matrices.items()})
    if not known:
        return UNKNOWN
    high = {name for (name, _), condition in known.items() if condition > HIGHEST_CONDITION}
    if not high:
        return FINE
    name, axis = max(known, key=lambda where: known[where])
    return (
        f"The curvature of {len(high)} of {len(two.matrices)} matrices has a condition above "
        f"{HIGHEST_CONDITION:,.0f}, the highest {known[name, axis]:.1e} on the {axis} axis of "
        f"{name}.",
        "Rounding may decide the repair there: use a larger --damping or more samples.",
    )


Check = tuple[str, str, Callable[[TwoSidedRecord], Outcome]]
TWO_SIDED_CHECKS: tuple[Check, ...] = (
    ("search_high", "The search for a task weight ended high", _search_high),
    ("search_low", "The search for a task weight ended low", _search_low),
    ("step_rose", "A natural step went too far", _step_rose),
    ("no_progress", "Natural steps did next to nothing", _no_progress),
    ("left", "Hardly anything given back", _left),
    ("damping", "Damping raised", _damping),
    ("condition", "Condition high", _condition),
)
