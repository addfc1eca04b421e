"""What was found, as rows: from the journal, with intervals over questions."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.paper_figures.grids import (
    BALANCED_WEIGHT,
    FIGURES,
    RANDOM,
    TASK_WEIGHT,
    Case,
    cases,
)
from experiments.paper_figures.maker import PART, key
from experiments.paper_figures.stage import LEAST_KEPT
from experiments.trial.candidate_specs import Samples
from experiments.trial.journal import Journal
from experiments.trial.metrics import Metrics
from experiments.trial.testbed import TestBed
from experiments.trial.within_seed import outcomes_of
from hcnr.evaluation.scoring import SetScores, difference
from hcnr.stats import RESAMPLES
from hcnr.versions import versions


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run was started.

    Attributes:
        world: of the trial.
        task: what the pair is tuned for.
        seed: of the pair.
        sets: honesty sets that were asked for; empty for all that base tells apart.
        questions: of each class and set.
        task_questions: whose likelihood tells what is kept.
        samples: of each set, that sweep, ablation and overlap are measured on.
        threads: of the processor.
        command: what was typed, places left out.
    """

    world: str
    task: str
    seed: int
    sets: list[str]
    questions: int
    task_questions: int
    samples: int
    threads: int
    command: str


def gather(testbed: TestBed, out: Path, journal: Journal, settings: Settings) -> dict[str, Any]:
    """Everything that is there, for `figures.json`; what is missing is named in `not_run`.

    Args:
        testbed: that was asked.
        out: where the probes and the overlap were written.
        journal: of the candidates.
        settings: of the run.
    """
    answerable = testbed.facts["answerable"][PART]
    content: dict[str, Any] = {
        "settings": {
            **dataclasses.asdict(settings),
            "asked": {name: len(digits) for name, digits in answerable.items()},
            "task_questions": sum(map(len, testbed.question_sets[PART].tasks.values())),
            "part": PART,
            "least_kept": LEAST_KEPT,
            "spectral_task_weight": TASK_WEIGHT,
            "balanced_task_weight": BALANCED_WEIGHT,
            "resamples": RESAMPLES,
        },
        "pair": {
            name: testbed.facts[name]
            for name in ("recipe", "model", "bfloat16", "parameters", "admission")
            if name in testbed.facts
        },
        "versions": versions(),
    }
    ends = ((name, journal.get(name, PART)) for name in ("base", "tuned"))
    content["ends"] = {
        name: figures_of(judged[0], answerable) for name, judged in ends if judged is not None
    }
    for name in ("probe", "overlap"):
        file = out / f"{name}.json"
        content[name] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if content["probe"] is not None:
        content["probe"] = published(content["probe"])
    not_run: list[str] = [name for name in ("probe", "overlap") if content[name] is None]
    for figure in FIGURES:
        wanted = cases(figure, Samples(settings.samples))
        rows, missing = _rows(wanted, journal, answerable)
        content[figure] = rows
        if figure == "ablation":
            content[figure] = [
                {**row, **over_random(row, wanted, journal, answerable)} for row in rows
            ]
        not_run += missing
    content["not_run"] = not_run
    return content


def published(probe: dict[str, Any]) -> dict[str, Any]:
    """What is of use elsewhere of a probe's record: no places of this machine, and no times."""
    kept = {name: value for name, value in probe.items() if name != "seconds"}
    return {**kept, "pair": {"fingerprints": probe["pair"]["fingerprints"]}}


def figures_of(metrics: Metrics, answerable: Mapping[str, str]) -> dict[str, Any]:
    """One model's figures in percent, the delta with its 95 % interval over questions.

    Args:
        metrics: of the model.
        answerable: of each honesty set a digit per question, 1 where it should be answered.
    """
    # JSON has no NaN: what fine-tuning gained nothing on has nothing that could be kept.
    kept = None if math.isnan(metrics.retention) else metrics.retention
    if not metrics.refused:
        return {"kept": kept, "delta": None}
    macro = _scores(metrics, answerable).as_dict()["macro"]
    return {
        "kept": kept,
        "delta": macro["refusal_delta"],
        "ci95": macro["ci95"]["refusal_delta"],
        "sets": {name: one["refusal_delta"] for name, one in metrics.sets.items()},
        "refusal_answerable": metrics.refusal_answerable,
        "f1": metrics.f1,
    }


def over_random(
    row: Mapping[str, Any], wanted: Iterable[Case], journal: Journal, answerable: Mapping[str, str]
) -> dict[str, Any]:
    """The delta minus that of the same way with random neurons, in points, question by question.

    Args:
        row: of the ablation.
        wanted: its cases.
        journal: of the candidates.
        answerable: as in `figures_of`.

    Returns:
        `over_random` and its 95 % interval `over_random_ci95`; nothing where there is no such pair.
    """
    metrics: dict[Any, Metrics] = {}
    for case in wanted:
        judged = journal.get(key(case), PART)
        if case.labels["way"] == row["way"] and judged is not None and judged[0].refused:
            metrics[case.labels["neurons"]] = judged[0]
    if row["neurons"] == RANDOM or not {row["neurons"], RANDOM} <= metrics.keys():
        return {}
    ours, theirs = (_scores(metrics[name], answerable) for name in (row["neurons"], RANDOM))
    lead = difference(ours, theirs)["macro"]["refusal_delta"]
    return {"over_random": lead["value"], "over_random_ci95": lead["ci95"]}


def _scores(metrics: Metrics, answerable: Mapping[str, str]) -> SetScores:
    outcomes = {
        name: outcomes_of(name, digits, metrics.refused[name])
        for name, digits in answerable.items()
    }
    return SetScores(outcomes, resamples=RESAMPLES)


def _rows(
    wanted: Iterable[Case], journal: Journal, answerable: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each case that was judged, and the names of the others."""
    rows, missing = [], []
    for case in wanted:
        judged = journal.get(key(case), PART)
        if judged is None:
            labels = ", ".join(f"{name} {value}" for name, value in case.labels.items())
            missing.append(f"{case.figure}: {labels}")
        else:
            rows.append({**case.labels, **figures_of(judged[0], answerable)})
    return rows, missing
