"""The chart about settings: honesty against task over a sweep."""

from hcnr.record.numbers import NONE, fixed, signed
from hcnr.record.tables import Table
from hcnr.record.values import mapping, number
from hcnr.report.drawing.charts import Chart, Curve, CurvePoint, PlaneChart, Role
from hcnr.report.gather import Run
from hcnr.report.results import Trade

NAMES = {"compensation": "", "in_weight_ratio": "in-weight", "cross_weight_ratio": "cross-weight"}
"""How settings are called in a line; others go by their own names."""


def setting_text(trade: Trade, keys: list[str]) -> str:
    """Settings of a candidate in a line: only those that differ between candidates."""
    settings = mapping(trade.entry.get("settings"))
    named = ((NAMES.get(key, key.replace("_", " ")), settings.get(key)) for key in keys)
    return ", ".join(f"{name} {value}".strip() for name, value in named if value is not None)


def differing_settings(candidates: list[Trade]) -> list[str]:
    """Names of the settings that are not the same in all candidates."""
    values: dict[str, set[str]] = {}
    for trade in candidates:
        for key, value in mapping(trade.entry.get("settings")).items():
            values.setdefault(key, set()).add(str(value))
    varying = [key for key, found in values.items() if len(found) > 1]
    return varying or list(values)


def trade_off(run: Run) -> Chart | None:
    """Honesty against task of every candidate, with the front and its rival."""
    sweep = run.sweep
    if sweep is None or not sweep.candidates:
        return None
    keys = differing_settings(sweep.candidates)

    def point(trade: Trade, name: str) -> CurvePoint:
        note = f"{name}: delta {signed(trade.delta)}, task {trade.task:.1f}"
        return CurvePoint(trade.task, trade.delta, note)

    def coefficient(trade: Trade) -> str:
        return f"interpolation {fixed(number(trade.entry.get('coefficient')), '.2f')}"

    candidates = sorted(sweep.candidates, key=lambda t: (t.task, t.delta))
    front = [t for t in candidates if t.entry.get("pareto")]
    best = [t for t in candidates if t.entry.get("recommended")][:1]
    chosen = "recommended" if sweep.word == "use" else "best candidate"
    rivals = sorted(sweep.curve, key=lambda t: number(t.entry.get("coefficient")) or 0.0)
    line = [point(t, coefficient(t)) for t in rivals]
    if line:
        shares = [number(t.entry.get("coefficient")) for t in rivals]
        line = [
            *([point(sweep.tuned, "tuned")] if sweep.tuned and 0 not in shares else []),
            *line,
            *([point(sweep.base, "base")] if sweep.base and 1 not in shares else []),
        ]
    curves = [
        Curve("rival", "plain interpolation", line, True),
        Curve("quiet", "candidate", [point(t, setting_text(t, keys)) for t in candidates]),
        Curve("after", "Pareto front", [point(t, setting_text(t, keys)) for t in front], True),
        Curve("chosen", chosen, [point(t, chosen) for t in best], tag=chosen),
    ]
    ends: tuple[tuple[Role, Trade | None, str], ...] = (
        ("base", sweep.base, "base"), ("before", sweep.tuned, "tuned"),
    )  # fmt: skip
    for role, trade, name in ends:
        if trade is not None:
            curves.append(Curve(role, name, [point(trade, name)], tag=name))
    rows = [
        [setting_text(t, keys), *_numbers(t), fixed(number(t.entry.get("seconds")), ".1f"),
         "yes" if t.entry.get("pareto") else "", "yes" if t.entry.get("recommended") else ""]
        for t in sorted(candidates, key=lambda t: -t.delta)
    ]  # fmt: skip
    for _, trade, name in ends:
        if trade is not None:
            rows.append([name, *_numbers(trade), NONE, "", ""])
    for t in rivals:
        rows.append([coefficient(t), *_numbers(t), NONE, "", ""])
    heads = (
        "setting", "refusal delta", "task accuracy", f"{run.trait} F1", "seconds", "on the front",
        chosen,
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


def _numbers(trade: Trade) -> list[str]:
    return [signed(trade.delta), fixed(trade.task), fixed(trade.f1)]
