"""Everything the report shows, collected from the files of a run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcnr.choosing.decision import Decision
from hcnr.errors import DataError, HcnrError
from hcnr.evaluation.judged import JudgedQuestion
from hcnr.evaluation.results import METRICS, evaluation_folder
from hcnr.record.files.decision import Difference
from hcnr.record.files.evaluation import EvaluationRecord, ModelDifference, ModelScores
from hcnr.record.files.probe import ProbeRecord
from hcnr.record.files.restoration import PairRecord, RestorationRecord
from hcnr.record.files.schema import Interval
from hcnr.record.files.sweep import SweepRecord
from hcnr.record.names import names_only, stem
from hcnr.record.writing import read_restoration
from hcnr.report.answers import RESTORED, answers_beside
from hcnr.report.decision import decision_of
from hcnr.report.roles import label_of, named_role, role_of

PathLike = str | Path
ANEW = "write it again or move it away"
"""What to do with a file that is damaged."""

RECIPE = "hcnr.yaml"
"""What the folder of an `hcnr run` is known by."""


@dataclass(frozen=True)
class Run:
    """A restoration and what is known about its result.

    Attributes:
        directory: where the restored checkpoint lies.
        name: of the restored model.
        report: `hcnr_report.json`.
        evaluation: `metrics.json`, empty without one.
        after: how the restored model scored in it, or None without one.
        before: how the tuned model scored.
        base: how the base model scored.
        others: further models of the evaluation.
        rival: the best plain interpolation of tuned and base at no less task accuracy, as the
            evaluation chose it.
        difference: the restored model minus the tuned one.
        decision: what to do with the restored model, by the evaluation.
        judged: every question of the evaluation with what the models said, by the names that they
            have on the page.
        sweep: `sweep.json`, or None without one.
        probe: `probe.json`, likewise.
        scores: quantiles of the Fisher scores by matrix and data set.
        guided: whether `hcnr run` made it, whose options a reader has used.
    """

    directory: Path
    name: str
    report: RestorationRecord
    evaluation: EvaluationRecord = field(default_factory=lambda: EvaluationRecord(model=""))
    after: ModelScores | None = None
    before: ModelScores | None = None
    base: ModelScores | None = None
    others: list[ModelScores] = field(default_factory=list)
    rival: ModelScores | None = None
    difference: ModelDifference = field(default_factory=ModelDifference)
    decision: Decision | None = None
    judged: list[JudgedQuestion] = field(default_factory=list)
    sweep: SweepRecord | None = None
    probe: ProbeRecord | None = None
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    guided: bool = False

    @property
    def f1_name(self) -> str:
        """`Honesty F1`, or that of another trait."""
        return f"{self.evaluation.trait.capitalize()} F1"

    def change(self, rate: str) -> Interval | None:
        """95 % interval of how far a mean rate is above the tuned model's."""
        means = self.difference.tasks_macro if rate == "accuracy" else self.difference.macro
        difference: Difference | None = getattr(means, rate)
        return difference and difference.ci95


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
    path = Path(directory).expanduser()
    report = read_restoration(path)
    run: dict[str, Any] = {"directory": path, "name": path.resolve().name, "report": report}
    # `hcnr run` keeps what it measured beside the model, in a folder with its recipe.
    resolved = path.resolve()
    beside = [resolved.parent] if (resolved.parent / RECIPE).is_file() else []
    run["guided"] = bool(beside)
    usual = [path / "eval" / METRICS, evaluation_folder(path) / METRICS]
    usual += [folder / "eval" / METRICS for folder in beside]
    if (file := _file(metrics, usual)) is not None:
        evaluation = EvaluationRecord.of(_read(file), file, ANEW)
        prints = evaluation.fingerprints
        own = _own_fingerprint(path, prints.get(evaluation.model)) if prints else None
        _check_model(evaluation, path, own, report.pair)
        run |= _evaluation(evaluation, report.pair, own)
        run["judged"] = answers_beside(file, run.pop("labels"))
    sweeps = [path / "sweep.json", path / "sweep" / "sweep.json"]
    file = _file(sweep, [*sweeps, *(folder / "sweep.json" for folder in beside)])
    if file is not None:
        run["sweep"] = SweepRecord.of(_read(file), file, ANEW)
        _check_pair("sweep", run["sweep"].pair, report.pair)
    if (file := _file(probe, [folder / "probe.json" for folder in (path, *beside)])) is not None:
        run["probe"] = ProbeRecord.of(_read(file), file, ANEW)
        _check_pair("probe", run["probe"].pair, report.pair)
    run["scores"] = report.scores
    if statistics is not None:
        from hcnr.curvature.statistics import Statistics
        from hcnr.record.quantiles import score_quantiles

        run["scores"] = score_quantiles(Statistics.load(statistics))
    return Run(**run)


def _file(chosen: PathLike | None, usual: list[Path]) -> Path | None:
    """The given file, which must be there, or the first of the usual ones that is."""
    if chosen is not None:
        return Path(chosen).expanduser()
    return next((path for path in usual if path.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    """What a file holds, with names in place of paths."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another file") from None
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); {ANEW}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a JSON object; {ANEW}")
    return names_only(content)


def _own_fingerprint(path: Path, known: str | None) -> str | None:
    """Fingerprint of the restored model itself; None where its weights are not there to read.

    It is `known` where an earlier version took that one of the same model.
    """
    from hcnr.models.source import open_source

    try:
        source = open_source(path)
        return known if source.has_fingerprint(known) else source.fingerprint()
    except HcnrError:
        return None


def _check_model(data: EvaluationRecord, path: Path, own: str | None, pair: PairRecord) -> None:
    """Refuse an evaluation of another model.

    Fingerprints decide, names where there are none. A fingerprint covers a few rows of each weight,
    so the restored model may share its own with tuned or base; names decide then as well.
    """
    name, print_ = data.model, data.fingerprints.get(data.model)
    if own is not None and print_ is not None and print_ != own:
        raise DataError(
            f"the evaluation is about {name} (fingerprint {print_}), not about the model in "
            f"{path} (fingerprint {own}); evaluate that one, or give its metrics (--metrics)"
        )
    if own is not None and print_ == own and own not in pair.fingerprints.values():
        return
    role = None if name == label_of(path.resolve().name) else named_role(name, pair)
    if role is not None:
        raise DataError(
            f"the evaluation is about the {role} model, {name}, not about the restored one; "
            f"evaluate the restored one, with --against for {role}"
        )


def _check_pair(what: str, other: PairRecord, pair: PairRecord) -> None:
    """Refuse a file about other models than the run's pair."""
    for role, known in pair.fingerprints.items():
        print_ = other.fingerprints.get(role)
        if print_ is not None and print_ != known:
            raise DataError(
                f"the {what} is about another pair: its {role} model has the fingerprint {print_}, "
                f"that of the restoration {known}; give the {what} of this pair, or move the file "
                "away"
            )


def _evaluation(data: EvaluationRecord, pair: PairRecord, own: str | None) -> dict[str, Any]:
    """The parts of a `Run` that an evaluation knows, with the pair's models told apart."""
    after = data.named(RESTORED)
    parts: dict[str, Any] = {"evaluation": data, "after": after, "others": []}
    parts["rival"], parts["labels"] = _rival(data), {data.model: RESTORED}
    for name, scores in data.models.items():
        role = role_of(name, data, pair, own)
        parts["labels"][name] = role or stem(name)
        if role == "tuned" and "before" not in parts:
            parts["before"] = scores.named("tuned")
            parts["difference"] = data.differences.get(name, ModelDifference())
        elif role == "base" and "base" not in parts:
            parts["base"] = scores.named("base")
        else:
            parts["others"].append(scores.named(stem(name)))
    parts["decision"] = decision_of(data, parts.get("before"), parts.get("difference"))
    return parts


def _rival(data: EvaluationRecord) -> ModelScores | None:
    """The interpolated model to beat: its own row, or the chosen point of the curve."""
    row = data.interpolation_row
    point = row or next((point for point in data.interpolation if point.chosen), None)
    if point is None:
        return None
    scores = point if isinstance(point, ModelScores) else point.scores
    return scores.named(f"interpolation ({point.coefficient:g})")
