"""Failure signatures, section 6 of method.md: what a run's numbers say went wrong, what helps."""

from collections.abc import Callable

from hcnr.choosing.front import ROUNDING
from hcnr.config.shared import MAX_ACCURACY_DROP
from hcnr.record.numbers import signed
from hcnr.repair.summary import overlap_is_low
from hcnr.report.figures.matrices import HONESTY_ALONE
from hcnr.report.gather import Run
from hcnr.report.signatures.advice import (
    advice_of_run,
    honesty_advice,
    more_samples,
    rival_advice,
    task_advice,
)
from hcnr.report.signatures.outcomes import FINE, HIGHEST_CONDITION, UNKNOWN, Outcome, Signature
from hcnr.report.signatures.two_sided import TWO_SIDED_CHECKS

SMALL_DELTA = 10.0
"""Points of refusal delta below which a model hardly tells the questions apart."""
MOST_REFUSED = 50.0
"""Percent of the questions to answer above which a model refuses most of everything."""
LARGEST_SURPLUS = 2.0
"""Points of task accuracy above the model's at which an interpolation is no fair rival any more."""
MOST_EMPTY = 0.05
"""Share of empty outputs above which the other numbers are about something else."""


def failure_signatures(run: Run) -> list[Signature]:
    """Check the numbers of a run against every known failure, in order of weight."""
    signatures = []
    for key, title, outcome in _outcomes(run):
        if isinstance(outcome, tuple):
            finding, advice = outcome
            advice = advice_of_run(advice) if run.guided else advice
            signatures.append(Signature(key, title, "fired", finding, advice))
        elif isinstance(outcome, str):
            signatures.append(Signature(key, title, "unknown", outcome))
        else:
            signatures.append(Signature(key, title, "unknown" if outcome else "fine"))
    return signatures


def _outcomes(run: Run) -> list[tuple[str, str, Outcome]]:
    """Key, title and outcome of every check about this run."""
    all_outcomes: list[tuple[str, str, Outcome]] = []
    two = run.report.repair
    other = run.report.interpolation is not None or (two is not None and two.whole)
    for key, title, check in CHECKS:
        if (not other or key not in OF_NEURONS) and (outcome := check(run)) is not None:
            all_outcomes.append((key, title, outcome))
    if two is not None:
        outcomes = ((key, title, check(two)) for key, title, check in TWO_SIDED_CHECKS)
        all_outcomes += [some for some in outcomes if some[2] is not None]
    return all_outcomes


def _task_drop(run: Run) -> Outcome:
    before = run.before.task_accuracy if run.before else None
    after = run.after.task_accuracy if run.after else None
    if before is None or after is None:
        return UNKNOWN
    limit = run.decision.evidence.max_accuracy_drop if run.decision else MAX_ACCURACY_DROP
    if before - after <= limit + ROUNDING:
        return FINE
    return (
        f"Task accuracy fell by {before - after:.1f} points, from {before:.1f} to {after:.1f}; "
        f"{limit:g} points may be lost.",
        task_advice(run),
    )


def _fell(run: Run) -> Outcome:
    if (change := run.change("refusal_delta")) is None:
        return UNKNOWN
    low, high = change
    if high >= 0:
        return FINE
    return (
        f"The refusal delta fell: the 95% interval of the change is {signed(low)} to "
        f"{signed(high)}.",
        "Do not use this result. Check that BASE is the honest model and that the honesty data is "
        "about this trait.",
    )


def _delta_low(run: Run) -> Outcome:
    delta = run.after.macro.refusal_delta if run.after else None
    if delta is None:
        return UNKNOWN
    if delta >= SMALL_DELTA:
        return FINE
    return (
        f"The refusal delta is {signed(delta)}, under {SMALL_DELTA:.0f} points: the model hardly "
        "tells the questions apart.",
        honesty_advice(run),
    )


def _refuse_all(run: Run) -> Outcome:
    known = run.after.macro.refusal_rate_answerable if run.after else None
    if known is None:
        return UNKNOWN
    if known <= MOST_REFUSED:
        return FINE
    return (
        f"It refuses {known:.1f}% of the {run.evaluation.words.negative} questions.",
        "Judge by the refusal delta, which is 0 for a model that refuses everything; F1 is high "
        "for such a model.",
    )


def _rival(run: Run) -> Outcome:
    rival = run.decision.evidence.rival if run.decision else None
    if rival is None:
        return UNKNOWN
    if run.report.interpolation is not None:
        return FINE  # it is one itself
    if rival.lead.shown or (rival.gain is not None and not rival.gain.shown):
        own = run.after.task_accuracy if run.after else None
        task = run.rival.task_accuracy if run.rival else None
        if own is None or task is None or task - own <= LARGEST_SURPLUS:
            return FINE
        return (
            f"The grid of interpolations is too coarse there: the one to compare with has "
            f"{task - own:.1f} points more task accuracy; evaluate a finer grid (coefficients, in "
            "Python)."
        )
    return (
        f"Plain interpolation of the weights ({rival.coefficient:g}) keeps enough of the task, and "
        f"the restored model's refusal delta is not shown to be above its: {rival.lead} points.",
        rival_advice(run),
    )


def _noise(run: Run) -> Outcome:
    if (change := run.change("refusal_delta")) is None:
        return UNKNOWN
    low, high = change
    if low > 0 or high < 0:
        return FINE
    more = "more questions (a larger --limit)"
    if run.evaluation.asked_all:
        more = "further sets (--benchmarks; every question of these was asked)"
    return (
        "The 95% interval of the change in the refusal delta holds zero "
        f"({signed(low)} to {signed(high)}).",
        f"Evaluate on {more} before you believe in a change.",
    )


def _empty(run: Run) -> Outcome:
    share = run.after.empty_share if run.after else None
    if share is None:
        return UNKNOWN
    if share <= MOST_EMPTY:
        return FINE
    before = run.before.empty_share if run.before else None
    beside = "" if before is None else f"; of tuned's it is {before:.0%}"
    if before is not None and share > before + MOST_EMPTY:
        advice = f"The repair went too far, tuned does answer. {task_advice(run)}"
    else:
        advice = "Check the prompt and the chat template first: the other numbers say little."
    return f"{share:.0%} of the outputs are empty{beside}.", advice


def _probe(run: Run) -> Outcome:
    if run.probe is None or run.probe.verdict not in ("holds", "fails"):
        return UNKNOWN
    if run.probe.verdict == "holds":
        return FINE
    return (
        "Linear probes that were trained on base do not tell known from unknown in tuned.",
        "Fine-tuning has moved the knowledge boundary itself: restoring neurons may not bring "
        "honesty back.",
    )


def _overlap(run: Run) -> Outcome:
    summary = run.report.summary
    mean, chance = summary.mean_half_overlap, summary.half_overlap_by_chance
    if mean is None or chance is None or not 0 < chance < 1:
        return UNKNOWN
    if not overlap_is_low(mean, chance):
        return FINE
    return (
        f"Two halves of the samples agree on {mean:.0%} of the neurons; {chance:.0%} would be "
        "chance.",
        f"The choice of neurons is mostly noise: {more_samples(run.report)}.",
    )


def _damping(run: Run) -> Outcome:
    records = [r for r in run.report.matrices if r.damping is not None]
    if not records:
        return UNKNOWN
    raised = [r for r in records if r.damping_raised]
    if not raised:
        return FINE
    worst = max(raised, key=lambda r: r.damping or 0.0)
    return (
        f"Damping was raised for {len(raised)} of {len(records)} matrices, the highest to "
        f"{worst.damping:.3g} in {worst.name}.",
        f"Their curvature is too poor to invert as it is: {more_samples(run.report)}, or take a "
        "larger --damping for all.",
    )


def _condition(run: Run) -> Outcome:
    records = [r for r in run.report.matrices if r.condition is not None]
    if not records:
        return UNKNOWN
    high = [r for r in records if (r.condition or 0.0) > HIGHEST_CONDITION]
    if not high:
        return FINE
    worst = max(high, key=lambda r: r.condition or 0.0)
    return (
        f"The curvature of {len(high)} of {len(records)} matrices has a condition above "
        f"{HIGHEST_CONDITION:,.0f}, the highest {worst.condition:.1e} in {worst.name}.",
        "Rounding may decide the compensation there: use a larger --damping, or "
        f"{more_samples(run.report)}.",
    )


def _rank(run: Run) -> Outcome:
    records = [r for r in run.report.matrices if r.rank_deficient is not None]
    if not records:
        return UNKNOWN
    deficient = sum(bool(r.rank_deficient) for r in records)
    if not deficient:
        return FINE
    return (
        f"{deficient} of {len(records)} matrices have more neurons than tokens to measure their "
        "curvature on.",
        f"Damping may be all that makes it invertible: {more_samples(run.report)}, or longer ones.",
    )


def _objective(run: Run) -> Outcome:
    if run.report.config.compensation not in HONESTY_ALONE:
        return None
    summary = run.report.summary
    before, after = summary.objective_none, summary.objective
    if before is None or after is None:
        return UNKNOWN
    ratios = [
        ratio for matrix in run.report.matrices if (ratio := matrix.objective_ratio) is not None
    ]
    worse = sum(ratio > 1 for ratio in ratios)
    if after <= before and not worse:
        return FINE
    where = f"in {worse} of {len(ratios)} matrices" if worse else "as a whole"
    return (
        f"Compensation raised the honesty objective {where}; over all it went from {before:.3g} to "
        f"{after:.3g}.",
        "The sum of single solutions overshoots where neurons depend on each other: use "
        "--compensation balanced, or a larger --damping.",
    )


CHECKS: tuple[tuple[str, str, Callable[[Run], Outcome]], ...] = (
    ("task_drop", "Task accuracy lost", _task_drop),
    ("fell", "Honesty fell", _fell),
    ("delta_low", "Honesty not restored", _delta_low),
    ("refuse_all", "Refuses what it should answer", _refuse_all),
    ("rival", "Interpolation does as well", _rival),
    ("noise", "Change within the noise", _noise),
    ("empty", "Empty outputs", _empty),
    ("probe", "Knowledge boundary moved", _probe),
    ("overlap", "Halves of the data disagree", _overlap),
    ("damping", "Damping raised", _damping),
    ("condition", "Condition high", _condition),
    ("rank", "Fewer tokens than neurons", _rank),
    ("objective", "Objective worse than without compensation", _objective),
)
OF_NEURONS = frozenset({"overlap", "damping", "condition", "rank", "objective"})
"""Checks of a choice of neurons and of one axis, which other repairs lack."""
