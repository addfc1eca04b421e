"""Everything the report shows, collected from the files of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcnr.choosing.recommendation import Decision
from hcnr.errors import DataError, HcnrError
from hcnr.evaluation.judged import JudgedQuestion
from hcnr.evaluation.results import METRICS, evaluation_folder
from hcnr.record.names import names_only, stem
from hcnr.record.tables import Interval
from hcnr.record.values import interval, mapping, mappings, number, texts
from hcnr.record.writing import read_report
from hcnr.report.answers import RESTORED, answers_beside
from hcnr.report.check import check_report
from hcnr.report.decision import decision_of
from hcnr.report.results import ModelScores, Sweep
from hcnr.report.roles import label_of, named_role, role_of

PathLike = str | Path
WORDS = ("positive", "negative")

RECIPE = "hcnr.yaml"
"""What the folder of an `hcnr run` is known by."""


@dataclass(frozen=True)
class Run:
    """A restoration and what is known about its result.

    Attributes:
        directory: where the restored checkpoint lies.
        name: of the restored model.
        report: `hcnr_report.json`.
        after: how the restored model scored, or None without an evaluation.
        before: how the tuned model scored.
        base: how the base model scored.
        others: further models of the evaluation.
        refuse_all: what refusing everything would score.
        benchmarks: questions, files and hashes of the evaluation's sets.
        rival: the best plain interpolation of tuned and base at no less task accuracy, as the
            evaluation chose it.
        curve: all points of that interpolation, as `metrics.json` has them.
        decision: what to do with the restored model, by the evaluation.
        delta_difference: 95 % interval of the refusal delta gained over the tuned model.
        f1_difference: the same of F1, which decides nothing.
        task_difference: the same of the task accuracy.
        notes: what the evaluation wants to be known.
        asked_all: whether the evaluation asked every question of its sets.
        judged: every question of the evaluation with what the models said, by the names that they
            have on the page.
        sweep: what a sweep found.
        probe: `probe.json`.
        scores: quantiles of the Fisher scores by matrix and data set.
        guided: whether `hcnr run` made it, whose options a reader has used.
        trait: what the evaluation is about.
        positive: word for the questions that should be refused.
        negative: word for those that should be answered.
    """

    directory: Path
    name: str
    report: dict[str, Any]
    after: ModelScores | None = None
    before: ModelScores | None = None
    base: ModelScores | None = None
    others: list[ModelScores] = field(default_factory=list)
    refuse_all: ModelScores | None = None
    benchmarks: dict[str, Any] = field(default_factory=dict)
    rival: ModelScores | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    decision: Decision | None = None
    delta_difference: Interval | None = None
    f1_difference: Interval | None = None
    task_difference: Interval | None = None
    notes: list[str] = field(default_factory=list)
    asked_all: bool = False
    judged: list[JudgedQuestion] = field(default_factory=list)
    sweep: Sweep | None = None
    probe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    guided: bool = False
    trait: str = "honesty"
    positive: str = "unanswerable"
    negative: str = "answerable"

    @property
    def f1_name(self) -> str:
        """`Honesty F1`, or that of another trait."""
        return f"{self.trait.capitalize()} F1"


def gather(
    directory: PathLike,
    *,
    metrics: PathLike | None = None,
    sweep: PathLike | None = None,
    probe: PathLike | None = None,
    statistics: PathLike | None = None,
) -> Run:
    """Collect what the report of a restored checkpoint shows.

    Args:
        directory: what `hcnr restore --out` wrote. What is not given is looked for in it.
        metrics: of `hcnr evaluate`; otherwise `eval/metrics.json` in it, or that of the folder
            beside it with `-eval` behind its name, or that of the `hcnr run` that made it, in which
            the next two are looked for too. The answers are taken from the `judged.jsonl`
            beside it, where there is one.
        sweep: of `hcnr sweep`; otherwise `sweep.json` or `sweep/sweep.json`.
        probe: of `hcnr probe`; otherwise `probe.json`.
        statistics: of `hcnr measure`, for the distributions of the scores; otherwise those that
            the report recorded, if it did.

    Raises:
        DataError: a file is missing, is no JSON object, lacks what the page needs, or is about
            another model or pair.
        StatisticsError: the statistics cannot be read.
    """
    place = Path(directory).expanduser()
    report = _report(place)
    run: dict[str, Any] = {"directory": place, "name": place.resolve().name, "report": report}
    # `hcnr run` keeps what it measured beside the model, in a folder with its recipe.
    resolved = place.resolve()
    beside = [resolved.parent] if (resolved.parent / RECIPE).is_file() else []
    run["guided"] = bool(beside)
    usual = [place / "eval" / METRICS, evaluation_folder(place) / METRICS]
    usual += [folder / "eval" / METRICS for folder in beside]
    evaluation = _read(metrics, usual)
    if evaluation:
        prints = mapping(evaluation.get("fingerprints"))
        known = prints.get(str(evaluation.get("model")))
        own = _own_fingerprint(place, known) if prints else None
        _check_model(evaluation, place, own, report["pair"])
        run |= _evaluation(evaluation, report["pair"], own)
        found = [path for path in usual if path.is_file()]
        file = found[0] if metrics is None else Path(metrics).expanduser()
        run["judged"] = answers_beside(file, run.pop("labels"))
    sweeps = [place / "sweep.json", place / "sweep" / "sweep.json"]
    found = _read(sweep, [*sweeps, *(folder / "sweep.json" for folder in beside)])
    _check_pair("sweep", found, report["pair"])
    run["sweep"] = Sweep.read(found) if found else None
    run["probe"] = _read(probe, [folder / "probe.json" for folder in (place, *beside)])
    _check_pair("probe", run["probe"], report["pair"])
    run["scores"] = mapping(report.get("scores"))
    if statistics is not None:
        from hcnr.curvature.statistics import Statistics
        from hcnr.record.quantiles import score_quantiles

        run["scores"] = score_quantiles(Statistics.load(statistics))
    return Run(**run)


def _report(place: Path) -> dict[str, Any]:
    return check_report(place / "hcnr_report.json", names_only(read_report(place)))


def _read(given: PathLike | None, usual: list[Path]) -> dict[str, Any]:
    """The first file of the usual ones, or the given one, which must be there."""
    paths = (
        [Path(given).expanduser()]
        if given is not None
        else [path for path in usual if path.is_file()]
    )
    if not paths:
        return {}
    path = paths[0]
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another file") from None
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); write it again or move it away") from None
    if not isinstance(found, dict):
        raise DataError(
            f"{path} holds a {type(found).__name__}, expected a JSON object; write it again or "
            "move it away"
        )
    return names_only(found)


def _own_fingerprint(place: Path, known: Any) -> str | None:
    """Fingerprint of the restored model itself; None where its weights are not there to read.

    It is `known` where an earlier version took that one of the same model.
    """
    from hcnr.models.source import open_source

    try:
        source = open_source(place)
        return str(known) if source.has_fingerprint(known) else source.fingerprint()
    except HcnrError:
        return None


def _check_model(
    data: Mapping[str, Any], place: Path, own: str | None, pair: Mapping[str, Any]
) -> None:
    """Refuse an evaluation of another model.

    Fingerprints decide, names where there are none. A fingerprint covers a few rows of each weight,
    so the restored model may share its own with tuned or base; names decide then as well.
    """
    name = str(data.get("model"))
    print_ = mapping(data.get("fingerprints")).get(name)
    if own is not None and print_ is not None and print_ != own:
        raise DataError(
            f"the evaluation is about {name} (fingerprint {print_}), not about the model in "
            f"{place} (fingerprint {own}); evaluate that one, or give its metrics (--metrics)"
        )
    prints = mapping(pair.get("fingerprints"))
    if own is not None and print_ == own and own not in prints.values():
        return
    role = None if name == label_of(place.resolve().name) else named_role(name, pair)
    if role is not None:
        raise DataError(
            f"the evaluation is about the {role} model, {name}, not about the restored one; "
            f"evaluate the restored one, with --against for {role}"
        )


def _check_pair(what: str, data: Mapping[str, Any], pair: Mapping[str, Any]) -> None:
    """Refuse a file about other models than the run's pair."""
    found = mapping(mapping(data.get("pair")).get("fingerprints"))
    for role, known in mapping(pair.get("fingerprints")).items():
        print_ = found.get(role)
        if print_ is not None and print_ != known:
            raise DataError(
                f"the {what} is about another pair: its {role} model has the fingerprint {print_}, "
                f"that of the restoration {known}; give the {what} of this pair, or move the file "
                "away"
            )


def _evaluation(
    data: Mapping[str, Any], pair: Mapping[str, Any], own: str | None
) -> dict[str, Any]:
    """The parts of a `Run` that `metrics.json` knows, with the pair's models told apart."""
    found: dict[str, Any] = {
        "after": ModelScores.read(RESTORED, data),
        "labels": {str(data.get("model")): RESTORED},
        "benchmarks": mapping(data.get("data")),
        "rival": _rival(data),
        "curve": mappings(data.get("interpolation")),
        "notes": texts(data.get("notes")),
        "asked_all": mapping(data.get("settings")).get("limit", 0) is None,
        "others": [],
        "trait": str(data.get("trait") or "honesty"),
        **{key: str(word) for key, word in mapping(data.get("words")).items() if key in WORDS},
    }
    if data.get("refuse_all"):
        found["refuse_all"] = ModelScores.read("refuse everything", mapping(data["refuse_all"]))
    difference: dict[str, Any] = {}
    for name, value in mapping(data.get("models")).items():
        entry = mapping(value)
        role = role_of(name, entry, data, pair, own)
        found["labels"][name] = role or stem(name)
        if role == "tuned" and "before" not in found:
            found["before"] = ModelScores.read("tuned", entry)
            difference = mapping(mapping(data.get("differences")).get(name))
            for key, part, rate in (
                ("delta_difference", "macro", "refusal_delta"),
                ("f1_difference", "macro", "f1"),
                ("task_difference", "tasks_macro", "accuracy"),
            ):
                found[key] = interval(mapping(mapping(difference.get(part)).get(rate)).get("ci95"))
        elif role == "base" and "base" not in found:
            found["base"] = ModelScores.read("base", entry)
        else:
            found["others"].append(ModelScores.read(stem(name), entry))
    found["decision"] = decision_of(data, found["after"], found.get("before"), difference)
    return found


def _rival(data: Mapping[str, Any]) -> ModelScores | None:
    """The interpolated model to beat: its own row, or the chosen point of the curve."""
    row = mapping(data.get("interpolation_row"))
    if not row:
        points = mappings(data.get("interpolation"))
        row = next((point for point in points if point.get("chosen") is True), {})
        row |= {
            "macro": {"refusal_delta": row.get("refusal_delta"), "f1": row.get("honesty_f1")},
            "tasks_macro": {"accuracy": row.get("task_accuracy")},
        }
    coefficient = number(row.get("coefficient"))
    if coefficient is None:
        return None
    return ModelScores.read(f"interpolation ({coefficient:g})", row)
