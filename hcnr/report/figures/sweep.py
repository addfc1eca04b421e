"""The chart about settings: honesty against task over a sweep."""

from hcnr.record.files.evaluation import CoefficientScores, Means
from hcnr.record.files.sweep import CandidateRecord
from hcnr.record.numbers import NONE, fixed, signed
from hcnr.record.tables import Table
from hcnr.report.drawing.charts import Chart, Curve, CurvePoint, PlaneChart, Role
from hcnr.report.gather import Run

NAMES = {"compensation": "", "in_weight_ratio": "in-weight", "cross_weight_ratio": "cross-weight"}
"""How settings are called in a line; others go by their own names."""


def setting_text(candidate: CandidateRecord, keys: list[str]) -> str:
    """Settings of a candidate in a line: only those that differ between candidates."""
    settings = candidate.settings
    named = ((NAMES.get(key, key.replace("_", " ")), settings.get(key)) for key in keys)
    return ", ".join(f"{name} {value}".strip() for name, value in named if value is not None)


def differing_settings(candidates: list[CandidateRecord]) -> list[str]:
    """Names of the settings that are not the same in all candidates."""
    values: dict[str, set[str]] = {}
    for candidate in candidates:
        for key, value in candidate.settings.items():
            values.setdefault(key, set()).add(str(value))
    varying = [key for key, distinct in values.items() if len(distinct) > 1]
    return varying or list(values)


def trade_off(run: Run) -> Chart | None:
    """Honesty against task of every candidate, with the front and its rival."""
    sweep = run.sweep
    if sweep is None or not sweep.tried:
        return None
    keys = differing_settings(sweep.tried)

    def point(scores: Means, name: str) -> CurvePoint:
        task, delta = scores.coordinates
        return CurvePoint(task, delta, f"{name}: delta {signed(delta)}, task {task:.1f}")

    def coefficient(scores: CoefficientScores) -> str:
        return f"interpolation {scores.coefficient:.2f}"

    candidates = sorted(sweep.tried, key=lambda t: t.coordinates)
    front = [t for t in candidates if t.pareto]
    use = sweep.choice is not None and sweep.choice.word == "use"
    chosen = "recommended" if use else "best candidate"
    rivals = sorted((t for t in sweep.interpolation if t.defined), key=lambda t: t.coefficient)
    base, tuned = (end if end and end.defined else None for end in (sweep.base, sweep.tuned))
    line = [point(t, coefficient(t)) for t in rivals]
    if line:
        shares = [t.coefficient for t in rivals]
        line = [
            *([point(tuned, "tuned")] if tuned and 0 not in shares else []),
            *line,
            *([point(base, "base")] if base and 1 not in shares else []),
        ]
    curves = [
        Curve("rival", "plain interpolation", line, True),
        Curve("quiet", "candidate", [point(t, setting_text(t, keys)) for t in candidates]),
        Curve("after", "Pareto front", [point(t, setting_text(t, keys)) for t in front], True),
        Curve("chosen", chosen, [point(t, chosen) for t in sweep.best], tag=chosen),
    ]
    ends: tuple[tuple[Role, Means | None, str], ...] = (
        ("base", base, "base"), ("before", tuned, "tuned"),
    )  # fmt: skip
    for role, trade, name in ends:
        if trade is not None:
            curves.append(Curve(role, name, [point(trade, name)], tag=name))
    rows = [
        [setting_text(t, keys), *_numbers(t), fixed(t.seconds, ".1f"),
         "yes" if t.pareto else "", "yes" if t in sweep.best else ""]
        for t in sorted(candidates, key=lambda t: -t.coordinates[1])
    ]  # fmt: skip
    for _, trade, name in ends:
        if trade is not None:
            rows.append([name, *_numbers(trade), NONE, "", ""])
    for t in rivals:
        rows.append([coefficient(t), *_numbers(t), NONE, "", ""])
    heads = (
        "setting", "refusal delta", "task accuracy", f"{run.evaluation.trait} F1", "seconds",
        "on the front", chosen,
    )  # fmt: skip
    return PlaneChart(
        key="trade-off",
        title="Honesty against task",
        description="Up and to the right is better. A setting is worth having where the front "
        "lies above plain interpolation of the weights.",
        table=Table(heads, rows),
        curves=[curve for curve in curves if curve.points],
        x_axis="task accuracy, %",
        y_axis="refusal delta, points",
    )


def _numbers(scores: Means) -> list[str]:
    return [signed(scores.refusal_delta), fixed(scores.task_accuracy), fixed(scores.honesty_f1)]
