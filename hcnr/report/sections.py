"""The sections of the HTML page, each from the numbers of a run."""

from collections.abc import Sequence

from hcnr.record.card import stem
from hcnr.record.interpolation import Interpolated
from hcnr.record.numbers import NONE, fixed, signed
from hcnr.record.tables import Table
from hcnr.record.two_sided import TwoSidedRecord
from hcnr.record.values import mapping, number
from hcnr.report.answers import answer_lists
from hcnr.report.drawing.charts import Chart
from hcnr.report.drawing.markup import Markup, element, join
from hcnr.report.figures.sweep import differing_settings, setting_text
from hcnr.report.gather import Run
from hcnr.report.headline import because, headline_notes, headline_table, verdict
from hcnr.report.interpolation_section import section_parts
from hcnr.report.parts import figure, section, table
from hcnr.report.signatures.outcomes import Signature
from hcnr.report.signatures.signatures import failure_signatures
from hcnr.report.two_sided_sections import (
    lead,
    passes,
    restored_matrices,
    search_and_steps,
    summary_table,
)


def header(run: Run) -> Markup:
    """Verdict and names."""
    pair = run.report["pair"]
    between, end = lead(TwoSidedRecord.read(run.report))
    if Interpolated.read(run.report) is not None:
        between, end = " interpolated towards ", "."
    return element(
        "header",
        element("p", "hcnr report", class_="kicker"),
        element("h1", verdict(run)),
        element("p", reason) if (reason := because(run)) else None,
        element(
            "p",
            element("b", run.name), " is ", element("b", stem(pair["tuned"])),
            between, element("b", stem(pair["base"])), end,
            class_="lead",
        ),
    )  # fmt: skip


def tiles(run: Run) -> Markup | None:
    """The numbers that decide, and F1."""
    after, before = run.after, run.before
    if after is None:
        return None
    old = before.mean("refusal_delta") if before else None
    delta, task = after.mean("refusal_delta"), after.task_accuracy
    found = [
        _tile("Refusal delta", old, delta, run.delta_difference, sign="+"),
        _tile("Task accuracy", before.task_accuracy if before else None, task, run.task_difference),
    ]
    if run.rival is not None:
        note = f"plain interpolation, task accuracy {fixed(run.rival.task_accuracy)}"
        found.append(_plain_tile("Delta to beat", signed(run.rival.mean("refusal_delta")), note))
    old, f1 = before.mean("f1") if before else None, after.mean("f1")
    found.append(_tile(run.f1_name, old, f1, run.f1_difference))
    return element("div", *found, class_="tiles")


def _tile(
    name: str, before: float | None, after: float | None,
    span: tuple[float, float] | None = None, sign: str = "",
) -> Markup:  # fmt: skip
    pattern = f"{sign}.1f"
    note = None
    if before is not None and after is not None:
        note = f"{signed(after - before)} from {fixed(before, pattern)}"
        if span is not None:
            note += f" (95%: {signed(span[0])} to {signed(span[1])})"
    return _plain_tile(name, fixed(after, pattern), note)


def _plain_tile(name: str, value: str, note: str | None) -> Markup:
    return element(
        "div",
        element("p", name, class_="name"),
        element("p", value, class_="value"),
        element("p", note, class_="note") if note else None,
    )


def signature_list(found: Sequence[Signature]) -> Markup:
    """What went wrong with what to do, and what else was looked for."""
    fired = [s for s in found if s.state == "fired"]
    items = [
        element(
            "li",
            element("h3", s.title),
            element("p", s.finding),
            element("p", s.advice, class_="advice"),
        )
        for s in fired
    ]
    quiet = {
        state: ", ".join(s.title.lower() for s in found if s.state == state)
        for state in ("fine", "unknown")
    }
    calm = "No known failure shows in what was measured."
    return join(
        element("ul", *items, class_="signatures") if items else None,
        None if items else element("p", calm, class_="calm"),
        element("p", f"Looked for and not found: {quiet['fine']}.", class_="quiet")
        if quiet["fine"] else None,
        element("p", f"Cannot be told from what was measured: {quiet['unknown']}.", class_="quiet")
        if quiet["unknown"] else None,
        *(element("p", f"{s.title}? {s.finding}", class_="quiet")
          for s in found if s.state == "unknown" and s.finding),
    )  # fmt: skip


def body(run: Run, charts: dict[str, Chart]) -> list[Markup]:
    """All sections that have something to show, in the order of the page."""

    def figures(*keys: str) -> list[Markup]:
        return [figure(charts[key]) for key in keys if key in charts]

    beside, sentence = headline_table(run), run.probe.get("sentence")
    two = TwoSidedRecord.read(run.report)
    whole = two if two and two.whole else None
    found = [
        section("result", "Result",
                table(beside, "Headline: all models beside each other", strong="restored")
                if beside else None,
                *(element("p", note, class_="quiet") for note in headline_notes(run))),
        section("watch", "What to watch", signature_list(failure_signatures(run))),
        section("honesty", "Honesty and task", *figures("honesty", "task")),
        section("answers", "What the models said", *answer_lists(run.judged)),
        section("settings", "Trade-off", *figures("trade-off"),
                *_sweep_notes(run)),
        section("boundary", "Knowledge boundary",
                element("p", sentence) if isinstance(sentence, str) else None,
                *figures("probe")),
        section("restored", "What was repaired" if whole else "What was restored",
                *_repair(run, whole),
                summary_table(two) if two else None,
                *figures("restored", "spectrum", "spectrum-by-matrix", "directions", "terms"),
                *(search_and_steps(two) if two else ()),
                *figures("perturbation", "scores")),
        section("numerics", "Numerics", *figures("objective", "condition", "damping", "axes"),
                passes(two) if two else None, _without_curvature(run)),
        section("time", "Time", *figures("times")),
        section("origin", "Data and versions", *_origin(run)),
        section("more", "What this report could also show", _missing(run, charts)),
    ]  # fmt: skip
    return [part for part in found if part is not None]


def _repair(run: Run, whole: TwoSidedRecord | None) -> list[Markup]:
    """What the repair did to the weights."""
    if (mix := Interpolated.read(run.report)) is not None:
        return section_parts(mix)
    return [restored_matrices(run, whole) if whole else _restored(run)]


def _sweep_notes(run: Run) -> list[Markup]:
    """What is recommended and why, the ablation, and what the sweep cost."""
    sweep = run.sweep
    if sweep is None:
        return []
    parts = []
    if not sweep.complete:
        said = "The sweep was interrupted before it had tried every setting: none is recommended."
        parts.append(element("p", said))
    if sweep.reason:
        chosen = [t for t in sweep.candidates if t.entry.get("recommended")][:1]
        keys = differing_settings(sweep.candidates)
        texts = [*(setting_text(t, keys) for t in chosen), sweep.reason]
        said = ": ".join(filter(None, texts))
        word = f"On its validation questions the sweep says {sweep.word}. "
        parts.append(element("p", element("b", word), f"{said[:1].upper()}{said[1:]}."))
    if sweep.cost_ratio is not None:
        models = len(sweep.candidates) + len(sweep.ablation)
        parts.append(
            element("p", f"{models} restored models cost {sweep.cost_ratio:.2f} times one "
                    "restoration, evaluation apart.", class_="quiet")
        )  # fmt: skip
    if sweep.ablation:
        rows = [
            [str(t.entry.get("name", NONE)), signed(t.delta), fixed(t.task), fixed(t.f1)]
            for t in sweep.ablation
        ]  # fmt: skip
        heads = ("ablation", "refusal delta", "task accuracy", f"{run.trait} F1")
        parts.append(element("h3", "What each part contributes", class_="apart"))
        parts.append(table(Table(heads, rows), "Ablation"))
    return parts


def _restored(run: Run) -> Markup:
    summary, config = run.report["summary"], run.report["config"]
    share = summary["restored_parameters"] / max(summary["target_parameters"], 1)
    overlap, chance = summary.get("mean_half_overlap"), summary.get("half_overlap_by_chance")
    agreement = ""
    if overlap is not None and chance is not None:
        agreement = (
            f" Two halves of the samples agree on {overlap:.0%} of the candidate neurons "
            f"({chance:.0%} by chance)."
        )
    return element(
        "p",
        f"{summary['restored_neurons']:,} neurons along the {config['axis']} axis, in "
        f"{summary['selected_matrices']} of {summary['target_matrices']} matrices: "
        f"{summary['restored_parameters']:,} parameters, {share:.1%} of the targets.{agreement}",
    )


def _without_curvature(run: Run) -> Markup | None:
    if run.report["config"].get("compensation") != "none":
        return None
    return element("p", "Compensation was off, so no curvature was factorised.")


def _origin(run: Run) -> list[Markup]:
    report = run.report
    prints = mapping(report["pair"].get("fingerprints"))
    models = [[role, stem(report["pair"][role]), str(prints.get(role, NONE))]
              for role in ("base", "tuned")]  # fmt: skip
    data, hashes = [], []
    for name, value in mapping(report.get("data")).items():
        facts = mapping(value)
        samples, tokens = number(facts.get("samples")), number(facts.get("tokens"))
        data.append([name, fixed(samples, ",.0f"), fixed(tokens, ",.0f"),
                     stem(str(facts.get("source", NONE)))])  # fmt: skip
        for key, what in (("sha256", "file"), ("tokens_sha256", "tokens")):
            hashes.append([f"{name}, {what}", str(facts.get(key) or NONE)])
    for name, value in run.benchmarks.items():
        facts = mapping(value)
        source = stem(str(facts.get("source") or NONE))
        data.append([name, fixed(number(facts.get("questions")), ",.0f"), NONE, source])
        hashes.append([f"{name}, file", str(facts.get("sha256") or NONE)])
    settings = [[key, str(value)] for key, value in report["config"].items()]
    versions = [[key, str(value)] for key, value in report["versions"].items()]
    warnings = [element("li", str(text)) for text in report.get("warnings") or []]
    parts = [
        table(Table(("model", "name", "fingerprint"), models, ("name", "fingerprint")), "Models"),
        table(Table(("data", "samples or questions", "tokens", "file"), data, ("file",)), "Data"),
        element("details", element("summary", "SHA-256 of the data"),
                table(Table(("data", "SHA-256"), hashes, ("SHA-256",)), "SHA-256 of the data"),
                class_="short"),
        element("details", element("summary", "Settings"),
                table(Table(("setting", "value"), settings, ("value",)), "Settings")),
        element("details", element("summary", "Versions"),
                table(Table(("package", "version"), versions, ("version",)), "Versions"),
                class_="short"),
    ]  # fmt: skip
    if warnings:
        parts.append(
            element("details", element("summary", f"Notes of the run ({len(warnings)})"),
                    element("ul", *warnings), class_="short")
        )  # fmt: skip
    return parts


def _missing(run: Run, charts: dict[str, Chart]) -> Markup | None:
    hints = {
        "honesty": ("honesty before and after", "hcnr evaluate"),
        "trade-off": ("honesty against task over many settings", "hcnr sweep"),
        "probe": ("whether the knowledge boundary survived fine-tuning", "hcnr probe"),
        "scores": ("the distributions of the Fisher scores", "hcnr report --statistics"),
    }
    two = TwoSidedRecord.read(run.report)
    if (two is not None and two.whole) or Interpolated.read(run.report):
        del hints["scores"]  # these repairs take none
    items = [
        element("li", f"{what}: ", element("code", command))
        for key, (what, command) in hints.items()
        if key not in charts
    ]
    return element("ul", *items) if items else None
