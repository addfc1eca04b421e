"""What the lab found about the highlighted model, in the files that `hcnr report` reads."""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hcnr.checkpoint import atomic_file
from hcnr.choosing.decision import Decision
from hcnr.config import RestoreConfig
from hcnr.demo.benchmarks import DETECTOR
from hcnr.demo.evaluation import Examiner
from hcnr.demo.interpolation import InterpolationPoint
from hcnr.demo.laboratory import Laboratory
from hcnr.demo.telling import write_evaluation
from hcnr.detectors.traits import HONESTY
from hcnr.evaluation.judged import INTERPOLATION
from hcnr.evaluation.results import assemble
from hcnr.probes.probe import probe
from hcnr.progress import Watcher
from hcnr.record.files.decision import Recommended
from hcnr.versions import versions

Responses = Mapping[str, Sequence[str]]


def write_metrics_of(
    restored: Path,
    examiner: Examiner,
    by_model: Mapping[str, Responses],
    curve: Sequence[InterpolationPoint],
    rival: InterpolationPoint | None,
    decision: Decision,
) -> Path:
    """Write `eval/metrics.json` as `hcnr evaluate` does.

    Args:
        restored: the directory of the restored checkpoint.
        examiner: who asked.
        by_model: responses by set of the models `restored`, `tuned` and `base`, and of
            `interpolation` where there is a rival.
        curve: every interpolated model that was evaluated.
        rival: the one that the restored model stands beside.
        decision: what to do with the restored model.
    """
    start = time.perf_counter()
    question_sets = examiner.question_sets
    scores = {name: examiner.score(responses) for name, responses in by_model.items()}
    row = scores.pop("interpolation", None)
    beside = None
    if rival is not None and row is not None:
        beside = {"coefficient": rival.coefficient, "scope": rival.scope, **row.as_dict()}
    record = assemble(
        "restored",
        scores["restored"],
        {name: scores[name] for name in ("tuned", "base")},
        # One sentence is a refusal here, and all sets are judged by it: no other column is needed.
        {},
        HONESTY,
        notes=[
            *question_sets.notes,
            *scores["restored"].notes(),
            "A tiny model in an invented world: leads, not claims. Answers must be exactly right.",
            "Interpolation is that of all weights or that of the linear maps of the blocks, "
            "whichever is better.",
        ],
        interpolation=[_point(point, point is rival) for point in curve],
        interpolation_row=beside,
        recommendation=Recommended.by(decision),
        settings={
            "detector": DETECTOR,
            "seed": question_sets.seed,
            "resamples": question_sets.resamples,
            "max_accuracy_drop": decision.evidence.max_accuracy_drop,
        },
        data={benchmark.name: benchmark.facts for benchmark in examiner.benchmarks},
        seconds={"score": time.perf_counter() - start},
        versions=versions(),
    )
    judged = dict(scores)
    answers = {name: by_model[name] for name in scores}
    if rival is not None and row is not None:
        label = f"{INTERPOLATION}{rival.coefficient:g}"
        judged[label], answers[label] = row, by_model["interpolation"]
    return write_evaluation(restored, question_sets, record, answers, judged)


def write_probe(path: Path, lab: Laboratory, watcher: Watcher) -> str:
    """Probe the pair on the measured honesty samples.

    Returns:
        The verdict in a sentence, or why there is none.
    """
    if importlib.util.find_spec("sklearn") is None:
        return "No probes without scikit-learn: pip install 'hcnr[evaluate]' for them."
    config = RestoreConfig(device="cpu")
    report = probe(
        lab.base, lab.tuned, lab.honesty, config=config, detector=DETECTOR, watcher=watcher
    )
    with atomic_file(path) as temporary:
        temporary.write_text(report.to_json(), encoding="utf-8")
    return report.sentence


def _point(point: InterpolationPoint, chosen: bool) -> dict[str, Any]:
    evaluation = point.evaluation
    return {
        "coefficient": point.coefficient,
        "scope": point.scope,
        "honesty_f1": evaluation.honesty_f1,
        "refusal_delta": evaluation.refusal_delta,
        "task_accuracy": evaluation.task_accuracy,
        "chosen": chosen,
    }
