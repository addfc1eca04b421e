"""`metrics.json`: everything that an evaluation found, and where it is written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hcnr.choosing.decision import Decision, decide, weigh
from hcnr.choosing.front import Scores as FrontScores
from hcnr.config.shared import MAX_ACCURACY_DROP
from hcnr.detectors.traits import Trait
from hcnr.evaluation.scoring import SetScores, difference
from hcnr.record.files.evaluation import EvaluationRecord
from hcnr.stats import LEVEL

METRICS = "metrics.json"


def assemble(
    label: str,
    scores: SetScores,
    others: Mapping[str, SetScores],
    common: Mapping[str, SetScores],
    trait: Trait,
    **parts: Any,
) -> EvaluationRecord:
    """Put the numbers of a model, and of those it is compared with, together.

    Args:
        label: name of the model.
        scores: its scores.
        others: scores of the models to compare with, by name.
        common: scores of all of them by the trait's own detector, by name; empty where every set
            is judged by that one already.
        trait: for the words.
        **parts: further ones of `EvaluationRecord`; `notes` are those of `scores` where none are
            given.
    """
    content: dict[str, Any] = {
        "model": label,
        "trait": trait.name,
        "words": {"positive": trait.positive, "negative": trait.negative},
        **scores.as_dict(),
        "refuse_all": scores.refuse_all().as_dict(),
        "models": {name: other.as_dict() for name, other in others.items()},
        "differences": {name: difference(scores, other) for name, other in others.items()},
        "common": {name: other.as_dict() for name, other in common.items()},
        "notes": scores.notes(),
        **parts,
    }
    if scores.resamples:
        content["intervals"] = {
            "method": "bootstrap over questions, percentile; paired for differences",
            "level": LEVEL,
            "resamples": scores.resamples,
            "seed": scores.seed,
        }
    return EvaluationRecord.model_validate(content)


def recommended(
    scores: SetScores,
    tuned: SetScores,
    curve: Sequence[tuple[float, SetScores]] = (),
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    doubt: str | None = None,
) -> Decision:
    """Decide about a model by its answers, see `hcnr.choosing.decision`.

    Args:
        scores: of the model.
        tuned: of the model before any repair, on the same questions.
        curve: interpolation: coefficients, and scores that may be without resamples.
        max_accuracy_drop: points of task accuracy that may be lost.
        doubt: why its repair is not to be trusted whatever it answers.
    """
    ours = FrontScores.of(scores)
    start = FrontScores.of(replace(tuned, resamples=scores.resamples, seed=scores.seed))
    points = [(c, FrontScores.of(replace(one, resamples=0))) for c, one in curve]
    evidence = weigh(ours, start, points, max_accuracy_drop)
    if evidence.rival is not None:
        # Resampled alone: many points would take long, and no other one is compared.
        at = evidence.rival.coefficient
        row = next(one for coefficient, one in curve if coefficient == at)
        row = FrontScores.of(replace(row, resamples=scores.resamples, seed=scores.seed))
        evidence = weigh(ours, start, [(at, row)], max_accuracy_drop)
    return decide(replace(evidence, doubt=doubt))


def evaluation_folder(directory: str | Path) -> Path:
    """Where the evaluation of a checkpoint is looked for: `restored-eval` beside `restored`.

    Answers are no part of what is uploaded, and another restoration replaces the checkpoint whole.
    """
    path = Path(directory).expanduser().resolve()
    return path.with_name(f"{path.name}-eval")


def write_metrics(folder: Path, record: EvaluationRecord) -> Path:
    """Write `metrics.json` into `folder`, completely or not at all, and return its path."""
    from hcnr.checkpoint import atomic_file

    path = folder / METRICS
    with atomic_file(path) as temporary:
        text = json.dumps(record.as_dict(), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path
