"""`hcnr.evaluate`: ask models every question, judge the answers, write the numbers."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.choosing.front import Scores
from hcnr.config import EvaluateConfig, RestoreConfig
from hcnr.config.calls import takes
from hcnr.detectors.traits import open_trait
from hcnr.errors import ConfigError
from hcnr.evaluation.asking import Asking, Said, check_spoken
from hcnr.evaluation.endpoints.served import (
    ServedModel,
    answers_of,
    check_measurable,
    name_models,
)
from hcnr.evaluation.interpolation import (
    best_rival,
    is_interpolation,
)
from hcnr.evaluation.judged import INTERPOLATION, judge_questions, write_judged
from hcnr.evaluation.panel import BenchmarkLike, load_sets, make_panel
from hcnr.evaluation.results import assemble, check_folder, recommended, write_metrics
from hcnr.evaluation.rivals import RivalPoint, search_rivals
from hcnr.evaluation.scoring import PanelScores
from hcnr.evaluation.subjects import Subject, name_subjects, telling_fingerprints
from hcnr.output.bars import shows_progress
from hcnr.progress import Stages, Watcher
from hcnr.record.files.evaluation import Asked, Recommended
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
    from hcnr.versions import versions

    asked = EvaluateConfig.of(settings, overrides)
    stages = Stages(watcher)
    words = open_trait(asked.trait)
    if (base is None) != (tuned is None):
        raise ConfigError("the interpolation row needs both base and tuned; give both or neither")
    check_measurable(
        [model, *against], calibration=asked.calibration, interpolation=base is not None
    )
    loaded = load_sets(benchmarks, asked.data_root, asked.limit, task=False)
    loaded_tasks = load_sets(tasks, asked.data_root, asked.limit, task=True)
    if both := loaded.keys() & loaded_tasks.keys():
        raise ConfigError(
            f"the set {min(both)} is named as benchmark and as task; name it under one of them"
        )
    panel = make_panel(
        {name: found.questions for name, found in loaded.items()},
        {name: found.questions for name, found in loaded_tasks.items()},
        {name: found.detector for name, found in loaded.items()},
        words,
        asked,
    )
    config = RestoreConfig(device=asked.device, dtype=asked.dtype)
    folder = None if out is None else check_folder(out)
    refusal = words.refusal if asked.calibration else None
    asking = Asking(
        panel, folder, asked.batch_size, asked.max_new_tokens, asked.chat_template, refusal, stages
    )

    said: dict[str, Said] = {}
    with contextlib.ExitStack() as servers:
        subjects = name_models([model, *against], base, servers)
        ends = name_subjects([base, tuned], base) if base is not None else []
        for subject in subjects:
            said[subject.label] = answers_of(asking, subject, asked.tokenizer, config)
            check_spoken(subject.label, said[subject.label])
    local = [one for one in subjects if isinstance(one, Subject)]
    served = [one for one in subjects if isinstance(one, ServedModel)]
    scores = {label: panel.score(one.responses, one.calibration) for label, one in said.items()}
    shared = {label: panel.score_common(one.responses) for label, one in said.items()}
    first, *rest = scores
    notes = scores[first].notes()
    parts: dict[str, Any] = {"interpolation": [], "interpolation_row": None, "recommendation": None}
    curve: list[tuple[float, PanelScores]] = []
    responses = {label: one.responses for label, one in said.items()}
    judged = dict(scores)
    if ends and loaded_tasks:
        known = {one.sha256: said[one.label] for one in local}
        points = search_rivals(
            ends[0], ends[1], asking, asked.tokenizer, config, asked.coefficients,
            (scores[first], said[first]), known, asked.max_accuracy_drop, notes,
        )  # fmt: skip
        curve = [(point.coefficient, point.scores) for point in points if point.complete]
        if (chosen := _add_rival(parts, points, scores[first], notes)) is not None:
            point = points[chosen]
            label = f"{INTERPOLATION}{point.coefficient:g}"
            judged[label], responses[label] = point.scores, point.said.responses
    elif ends:
        notes.append(
            "There is no interpolation row: it is taken at equal task accuracy, and no task was "
            "given."
        )
    if ends and loaded:
        by_sha256 = {one.sha256: scores[one.label] for one in local}
        start = next((one for c, one in curve if c == 0), by_sha256.get(ends[1].sha256))
        if start is not None:
            rivals = curve
            if is_interpolation(model):
                rivals = []
                notes.append(
                    "The model is an interpolation itself: it is compared with the tuned model, "
                    "and not with what it is."
                )
            doubt = MeasuredOn.read(model).doubt
            found = recommended(scores[first], start, rivals, asked.max_accuracy_drop, doubt)
            parts["recommendation"] = Recommended.by(found)
    every = {**loaded, **loaded_tasks}
    opening = [note for one in (*local, *ends) for note in one.source.notes]
    opening += [one.note for one in served]
    opening = [*dict.fromkeys(opening), *(n for found in every.values() for n in found.notes)]
    for one, label in zip([model, *against], said, strict=True):
        opening += MeasuredOn.read(one).overlap(label, panel.sets)
    if served:
        parts["endpoints"] = {
            one.label: {"url": one.server.url, "model": one.server.model} for one in served
        }
    facts = {name: getattr(asked, name) for name in Asked.model_fields if name != "refusal"}
    found = assemble(
        first,
        scores[first],
        {label: scores[label] for label in rest},
        {label: one for label, one in shared.items() if one is not None},
        words,
        **parts,
        notes=[*opening, *panel.notes, *notes],
        fingerprints=telling_fingerprints(local),
        sha256={one.label: one.sha256 for one in local},
        settings={**facts, "refusal": refusal},
        data={name: one.facts for name, one in every.items()},
        seconds=stages.seconds,
        versions=versions(),
    )
    if folder is not None:
        write_judged(folder, judge_questions(panel.sets, responses, judged))
        write_metrics(folder, found)
    return found.as_dict()


def _add_rival(
    parts: dict[str, Any], points: list[RivalPoint], scores: PanelScores, notes: list[str]
) -> int | None:
    """Put the curve and its best point at the model's task accuracy down; returns its place."""
    complete = [i for i, point in enumerate(points) if point.complete]
    curve = [(point.coefficient, point.scores) for point in points]
    chosen = best_rival([curve[i] for i in complete], scores.task_accuracy)
    chosen = None if chosen is None else complete[chosen]
    parts["interpolation"] = [
        {"coefficient": one.coefficient, **Scores.of(one.scores).as_dict(), "chosen": i == chosen,
         "questions": one.questions, "complete": one.complete}
        for i, one in enumerate(points)
    ]  # fmt: skip
    if chosen is None:
        if scores.task_accuracy is None:
            why = "the task accuracy is undefined, because no task question has a known answer"
        elif all(one.refusal_delta is None for _, one in curve):
            why = "the refusal delta is undefined, because no set has questions of both kinds"
        else:
            why = (
                "no interpolated model reaches the model's task accuracy of "
                f"{scores.task_accuracy:.2f} %"
            )
        notes.append(f"There is no interpolation row: {why}.")
        return None
    coefficient, rival = curve[chosen]
    parts["interpolation_row"] = {"coefficient": coefficient, **rival.as_dict()}
    return chosen
