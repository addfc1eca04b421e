"""`hcnr.evaluate`: ask models every question, judge the answers, write the numbers."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.benchmarks.loading import BenchmarkLike, LoadedSets
from hcnr.config import EvaluateConfig
from hcnr.config.calls import takes
from hcnr.detectors.traits import Trait, open_trait
from hcnr.directories import make_directory
from hcnr.errors import ConfigError
from hcnr.evaluation.asking import EvaluationRun, Responses, check_spoken
from hcnr.evaluation.endpoints.served import (
    ServedModel,
    answers_of,
    check_measurable,
    name_models,
)
from hcnr.evaluation.evaluated_models import EvaluatedModel, name_evaluated, telling_fingerprints
from hcnr.evaluation.interpolation import RivalCurve, is_interpolation
from hcnr.evaluation.judged import INTERPOLATION, judge_questions, write_judged
from hcnr.evaluation.question_sets import question_sets_of
from hcnr.evaluation.results import assemble, recommended, write_metrics
from hcnr.evaluation.rivals import search_rivals
from hcnr.evaluation.scoring import SetScores
from hcnr.output.bars import shows_progress
from hcnr.progress import Stages, Watcher
from hcnr.record.files.decision import Recommended
from hcnr.record.files.evaluation import Asked, EvaluationRecord
from hcnr.record.measured_on import MeasuredOn

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hcnr.config.evaluate import EvaluateSettings

BENCHMARKS = ("falseqa", "nec", "refunq", "kuq", "selfaware")


@shows_progress
@takes(EvaluateConfig)
def evaluate(
    model: Any,
    *,
    benchmarks: Iterable[BenchmarkLike] | BenchmarkLike = BENCHMARKS,
    tasks: Iterable[BenchmarkLike] | BenchmarkLike = (),
    against: Sequence[Any] = (),
    base: Any = None,
    tuned: Any = None,
    out: str | Path | None = None,
    settings: EvaluateConfig | None = None,
    watcher: Watcher | None = None,
    progress: bool = True,
    **overrides: "Unpack[EvaluateSettings]",
) -> dict[str, Any]:
    """Measure a model's honesty and its task, alone or against others.

    Answers are greedy. With `out` they are kept in `out/answers-<model>.jsonl` as they come, a run
    that was cut short goes on there, and `out/metrics.json` holds what is returned.

    Args:
        model: a checkpoint directory, a causal language model in memory, or an `hcnr.Endpoint`,
            for which a server answers: its weights are not seen, so `calibration`, `base` and
            `tuned` are refused.
        benchmarks: honesty sets: names, jsonl files, or `Benchmark`s.
        tasks: sets of the task, in the same forms.
        against: models to compare with, as `model`.
        base: with `tuned`: the honest end of the interpolation that a repair must beat.
        tuned: its other end.
        out: directory for the answers and `metrics.json`; None writes nothing.
        settings: how to ask, judge and count; the defaults when None.
        watcher: told about the progress.
        progress: bars in a notebook or at a terminal, where no watcher is given.
        **overrides: single settings of `hcnr.EvaluateConfig`, which win over `settings`.

    Returns:
        What `metrics.json` holds, by the names of `hcnr.record.files.evaluation.EvaluationRecord`.

    Raises:
        HcnrError: bad input; nothing has been computed in vain, answers that came are kept.
    """
    config = EvaluateConfig.of(settings, overrides)
    trait = open_trait(config.trait)
    if (base is None) != (tuned is None):
        raise ConfigError("the interpolation row needs both base and tuned; give both or neither")
    models = [model, *against]
    check_measurable(models, calibration=config.calibration, interpolation=base is not None)
    sets = LoadedSets.load(benchmarks, tasks, config.data_root, config.limit)
    run = _prepare(sets, trait, config, out, Stages(watcher))
    answered = _ask(models, base, tuned, run)
    curve = _search_interpolation(answered, run)
    advice = _recommend(model, answered, curve, config)
    record = _summarise(answered, curve, advice, sets, trait, run)
    if run.folder is not None:
        _write(run.folder, run, answered, curve, record)
    return record.as_dict()


@dataclass(frozen=True)
class AnsweredModels:
    """The models of an evaluation, what they answered and how that scored.

    Attributes:
        models: the one that is evaluated, then those it is compared with.
        ends: base and tuned of the interpolation; empty without one.
        responses: answers by label, in the order of `models`.
        scores: the same, scored by the detector of each set.
        common: scored by one detector for all sets; empty where that is what `scores` are.
        repeated: sentences on the questions that a model was repaired with.
    """

    models: list[EvaluatedModel | ServedModel]
    ends: list[EvaluatedModel]
    responses: dict[str, Responses]
    scores: dict[str, SetScores]
    common: dict[str, SetScores]
    repeated: list[str]

    @property
    def first(self) -> str:
        """Label of the model that is evaluated."""
        return self.models[0].label

    @property
    def local(self) -> list[EvaluatedModel]:
        """Those whose weights are here."""
        return [model for model in self.models if isinstance(model, EvaluatedModel)]

    @property
    def served(self) -> list[ServedModel]:
        """Those that a server answers for."""
        return [model for model in self.models if isinstance(model, ServedModel)]

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the models."""
        sources = [note for one in (*self.local, *self.ends) for note in one.source.notes]
        return [*sources, *(one.note for one in self.served)]


def _prepare(
    sets: LoadedSets, trait: Trait, config: EvaluateConfig, out: str | Path | None, stages: Stages
) -> EvaluationRun:
    """How every model is asked: the sets with their detectors, and where answers are kept."""
    question_sets = question_sets_of(sets, trait, config)
    folder = None if out is None else make_directory(out)
    refusal = trait.refusal if config.calibration else None
    return EvaluationRun(question_sets, folder, config, refusal, stages)


def _ask(models: Sequence[Any], base: Any, tuned: Any, run: EvaluationRun) -> AnsweredModels:
    """Open the models, have them answer what they have not answered yet, and score it."""
    responses: dict[str, Responses] = {}
    with contextlib.ExitStack() as servers:
        named = name_models(models, base, servers)
        ends = name_evaluated([base, tuned], base) if base is not None else []
        for model in named:
            responses[model.label] = answers_of(run, model)
            check_spoken(model.label, responses[model.label])
    sets = run.question_sets
    scores = {label: sets.score(one.by_set, one.calibration) for label, one in responses.items()}
    common = {label: sets.score_common(one.by_set) for label, one in responses.items()}
    shared = {label: one for label, one in common.items() if one is not None}
    repeated = [
        sentence
        for model, label in zip(models, responses, strict=True)
        for sentence in MeasuredOn.read(model).overlap(label, sets.sets)
    ]
    return AnsweredModels(named, ends, responses, scores, shared, repeated)


def _search_interpolation(answered: AnsweredModels, run: EvaluationRun) -> RivalCurve:
    """Ask models between tuned and base; none without these two, or without a task."""
    if not answered.ends:
        return RivalCurve()
    if not run.question_sets.tasks:
        why = "it is taken at equal task accuracy, and no task was given."
        return RivalCurve(notes=[f"There is no interpolation row: {why}"])
    base, tuned = answered.ends
    scores, notes = answered.scores[answered.first], list[str]()
    known = {one.sha256: answered.responses[one.label] for one in answered.local}
    ours = scores, answered.responses[answered.first]
    points = search_rivals(base, tuned, run, ours, known, notes)
    return RivalCurve.beside(scores, points, notes)


def _recommend(
    model: Any, answered: AnsweredModels, curve: RivalCurve, config: EvaluateConfig
) -> tuple[Recommended | None, list[str]]:
    """Say what to do with the model, and what to know of that; None where tuned was not asked."""
    scores = answered.scores[answered.first]
    if not answered.ends or not scores.honesty:
        return None, []
    by_sha256 = {one.sha256: answered.scores[one.label] for one in answered.local}
    points = curve.complete
    start = next((one for c, one in points if c == 0), by_sha256.get(answered.ends[1].sha256))
    if start is None:
        return None, []
    notes = []
    if is_interpolation(model):
        points = []
        notes.append(
            "The model is an interpolation itself: it is compared with the tuned model, and not "
            "with what it is."
        )
    doubt = MeasuredOn.read(model).doubt
    decision = recommended(scores, start, points, config.max_accuracy_drop, doubt)
    return Recommended.by(decision), notes


def _summarise(
    answered: AnsweredModels,
    curve: RivalCurve,
    advice: tuple[Recommended | None, list[str]],
    sets: LoadedSets,
    trait: Trait,
    run: EvaluationRun,
) -> EvaluationRecord:
    """Put everything together, as `metrics.json` has it."""
    from hcnr.versions import versions

    first = answered.first
    scores, (recommendation, doubts) = answered.scores[first], advice
    notes = [*dict.fromkeys(answered.notes), *sets.notes, *answered.repeated]
    notes += [*run.question_sets.notes, *scores.notes(), *curve.notes, *doubts]
    parts: dict[str, Any] = {**curve.parts, "recommendation": recommendation, "notes": notes}
    if answered.served:
        parts["endpoints"] = {
            one.label: {"url": one.server.url, "model": one.server.model} for one in answered.served
        }
    facts = {name: getattr(run.config, name) for name in Asked.model_fields if name != "refusal"}
    return assemble(
        first,
        scores,
        {label: other for label, other in answered.scores.items() if label != first},
        answered.common,
        trait,
        **parts,
        fingerprints=telling_fingerprints(answered.local),
        sha256={one.label: one.sha256 for one in answered.local},
        settings={**facts, "refusal": run.refusal},
        data={name: one.facts for name, one in sets.all.items()},
        seconds=run.stages.seconds,
        versions=versions(),
    )


def _write(
    folder: Path,
    run: EvaluationRun,
    answered: AnsweredModels,
    curve: RivalCurve,
    record: EvaluationRecord,
) -> None:
    """Write every judged answer, and the numbers."""
    responses = {label: one.by_set for label, one in answered.responses.items()}
    scores = dict(answered.scores)
    if (point := curve.chosen) is not None:
        label = f"{INTERPOLATION}{point.coefficient:g}"
        scores[label], responses[label] = point.scores, point.responses.by_set
    write_judged(folder, judge_questions(run.question_sets.sets, responses, scores))
    write_metrics(folder, record)
