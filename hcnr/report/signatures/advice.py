"""What to do, read against what the run has done already: no option that it has none of or used."""

import re

from hcnr.record.files.restoration import Interpolated, RestorationRecord
from hcnr.record.files.two_sided import TwoSidedRecord
from hcnr.record.numbers import short
from hcnr.report.gather import Run

OPTIONS_OF_RUN = frozenset(
    ("--compensation", "--task-weight", "--max-task-drop-percent", "--samples", "--limit")
)
"""Options of `hcnr run` that any advice names."""
_OPTION = re.compile(r"--[a-z][a-z-]*")
_OWNERS = {"--benchmarks": "hcnr evaluate"}
FEW_MATRICES = 0.2
"""R_CW below which too few matrices may be restored, method.md, section 6."""


def task_advice(run: Run) -> str:
    """What helps where the task lost too much."""
    config, two = run.report.config, run.report.repair
    if (mix := run.report.interpolation) is not None:
        return f"Take a smaller --coefficient (it was {short(mix.coefficient)}){_search(run, mix)}."
    if two is not None and two.whole:
        shorter = ""
        if two.steps:
            fewer = ", --steps" if len(two.steps) > 1 else ""
            shorter = f" Or step less far (--step-size{fewer})."
        return (
            f"Let the task weigh more: raise --task-weight (mu was {short(two.task_weight)})"
            f"{_search(run, two)}.{shorter}"
        )
    if config.priority != "kl":
        return (
            f"The task term is missing from the selection (priority {config.priority}): "
            "restore with --priority kl."
        )
    fewer = f"Restore fewer neurons: lower --in-weight-ratio (it is {config.in_weight_ratio})."
    if config.compensation != "balanced":
        return f"{fewer} Or use --compensation balanced with a larger --task-weight."
    mu = two.task_weight if two else config.mu
    return f"{fewer} Or raise --task-weight (mu was {short(mu)})."


def _search(run: Run, repair: TwoSidedRecord | Interpolated) -> str:
    """What a search can still do: be made, or keep more."""
    option = "--coefficient" if isinstance(repair, Interpolated) else "--task-weight"
    if not repair.search:
        return f", or let {option} auto search for it"
    drop = run.report.config.max_task_drop_percent
    return f", or search with a smaller --max-task-drop-percent (it was {drop:g})" if drop else ""


def honesty_advice(run: Run) -> str:
    """What helps where honesty did not come back."""
    config, two = run.report.config, run.report.repair
    if (mix := run.report.interpolation) is not None:
        larger = f"a larger --coefficient (it was {short(mix.coefficient)}), or "
        return f"Take {larger if mix.coefficient != 1 else ''}--compensation spectral."
    advice = [_weigh_less(two)] if two is not None and two.whole else []
    if config.compensation == "none":
        advice.append("Compensation is off: restore with --compensation sum or balanced.")
    ratio = config.cross_weight_ratio
    if ratio is not None and ratio < FEW_MATRICES:
        advice.append(
            f"Too few matrices are restored: raise --cross-weight-ratio from {ratio:g} to 0.3 or "
            "0.4."
        )
    if not advice and run.sweep is None:
        advice.append("Look for better settings with hcnr sweep.")
    if not advice:
        advice.append("Repair whole matrices with --compensation spectral.")
    if not run.probe and not (two and two.whole):
        advice.append("Run hcnr probe to see whether the model still tells known from unknown.")
    return " ".join(advice)


def _weigh_less(two: TwoSidedRecord) -> str:
    mu = short(two.task_weight)
    if two.kind == "spectral":
        return (
            f"Let the task weigh less: lower --task-weight (mu was {mu}), or go on with natural "
            "steps (--compensation spectral+natural)."
        )
    return f"Step further (--step-size, --steps) or lower --task-weight (mu was {mu})."


def rival_advice(run: Run) -> str:
    """What to try where plain interpolation does as well."""
    config, two = run.report.config, run.report.repair
    ratio, kind = config.cross_weight_ratio, config.compensation
    every = ["--cross-weight-ratio 1.0"] if ratio is None or ratio < 1 else []
    if two is not None and two.whole:
        last = "another --step-size"
        if two.kind == "spectral":
            last = "natural steps (--compensation spectral+natural)"
        return f"Try {_either([*every, 'another --task-weight', last])}."
    if kind != "balanced":
        tried = [" with ".join(["--compensation balanced", *every])]
    else:
        tried = every or ["--compensation spectral"]
    return f"Try {_either([*tried, *(['let hcnr sweep choose'] if run.sweep is None else [])])}."


def advice_of_run(advice: str) -> str:
    """Say of options that `hcnr run` has not which command has them."""
    named = dict.fromkeys(_OPTION.findall(advice))
    owners: dict[str, list[str]] = {}
    for option in named:
        if option not in OPTIONS_OF_RUN:
            owners.setdefault(_OWNERS.get(option, "hcnr restore"), []).append(option)
    for command, options in owners.items():
        verb = "is an option" if len(options) == 1 else "are options"
        advice += f" {' and '.join(options)} {verb} of {command}, not of hcnr run."
    return advice


def _either(options: list[str]) -> str:
    *first, last = options
    return f"{', '.join(first)}, or {last}" if first else last


def more_samples(report: RestorationRecord) -> str:
    """How to measure on more: by the option, or by larger files where all of them was measured."""
    counts = [(one.available, one.samples) for one in report.data.values()]
    if counts and all(known is not None and known <= used for known, used in counts):
        return "give files with more samples (all of theirs were measured)"
    return "measure on more samples (--samples)"
