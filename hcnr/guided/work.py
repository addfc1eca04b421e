"""What each step of a run does, by the functions of the commands of the same names."""

from collections.abc import Mapping
from typing import Any

from hcnr.checkpoint import atomic_file
from hcnr.errors import ConfigError, DataError
from hcnr.guided.job import Job

COEFFICIENTS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the interpolation that a repair is chosen beside; past half way little of the task is left."""
WEIGHTS = (1.0, 3.0, 10.0)
"""Times the searched task weight: heavier ones keep more of the task, by its loss as well."""


def probe_pair(job: Job) -> str:
    """Probe the pair; one sentence, also where it cannot be done, which hinders nothing."""
    from hcnr.probes.probe import probe

    # Probes read prompts alone and learn from many: four times the samples, where there are.
    config = job.config.replace(samples=4 * job.recipe.settings.samples)
    try:
        report = probe(*job.pair, job.honesty, config=config, **job.shared)
    except (ConfigError, DataError) as error:
        return f"no probes: {error}"
    with atomic_file(job.out / "probe.json") as temporary:
        temporary.write_text(report.to_json(), encoding="utf-8")
    return report.sentence


def search_weight(job: Job) -> float | None:
    """The smallest task weight that keeps the task; None where there is nothing to search."""
    import hcnr

    if not job.config.searches:
        return None
    restored = hcnr.restore(*job.pair, job.honesty, job.task, config=job.config, **job.shared)
    return float(restored.hcnr_report["two_sided"]["task_weight"])


def choose(job: Job, weight: float | None) -> dict[str, Any]:
    """A light sweep: the kind at its weight and heavier ones, beside interpolation.

    Returns:
        `config` (settings of the one to restore), `coefficient` (of the interpolation of best
        delta that keeps the task), `word` and `reason` of the sweep, `notes`.
    """
    import hcnr
    from hcnr.choosing.decision import least_kept
    from hcnr.choosing.front import rival
    from hcnr.search.grid import Grid
    from hcnr.search.table import as_options

    config, settings = job.config, job.recipe.settings
    values: dict[str, Any] = {}
    if config.weighs_task:
        start = config.mu if weight is None else weight
        times = WEIGHTS if weight is not None else (1.0,)
        values["task_weight"] = tuple(float(f"{start * factor:.6g}") for factor in times)
    grid = Grid(
        in_weight=(config.in_weight_ratio,),
        cross_weight=(config.cross_weight_ratio,),
        compensation=(config.compensation,),
        **values,
    )
    result = hcnr.sweep(
        *job.pair, job.honesty, job.task, grid=grid, benchmarks=[job.validation],
        tasks=[job.task_validation], coefficients=COEFFICIENTS, refine=False, out=job.out,
        max_accuracy_drop=settings.max_accuracy_drop, config=config, overwrite=True,
        **job.asking, **job.shared,
    )  # fmt: skip
    advice = result.recommendation
    curve = [(0.0, result.tuned), *result.interpolation, (1.0, result.base)]
    least = least_kept(result.tuned.task_accuracy, settings.max_accuracy_drop)
    index = rival([scores for _, scores in curve], least)
    # Without one that is above tuned the searched weight stands: what judges has the last word.
    chosen = result.candidates[advice.index or 0].settings
    return {
        "config": chosen,
        "coefficient": None if index is None else curve[index][0],
        "word": advice.word,
        "reason": f"{as_options(chosen)}, on the validation questions {advice.word}: "
        f"{advice.reason}",
        "notes": list(dict.fromkeys(result.messages)),
    }


def restore_chosen(job: Job, settings: Mapping[str, Any]) -> list[str]:
    """Write the chosen repair; its notes, and the lines of its verdict by the losses."""
    import hcnr
    from hcnr.record.writing import read_report

    models = job.recipe.models
    out = hcnr.restore(
        *job.pair, job.honesty, job.task, job.out / "model", job.config.replace(**settings),
        base_id=models.base_id, tuned_id=models.tuned_id, overwrite=True, **job.shared,
    )  # fmt: skip
    report = read_report(out)
    notes = [f"note: {text}" for text in report.get("warnings", ())]
    return [*notes, *(report.get("verdict") or {"lines": ()})["lines"]]


def evaluate_all(job: Job, coefficient: float | None, mark: str) -> Any:
    """Ask restored, tuned, base and interpolations between the questions that judge.

    Answers of an earlier evaluation with the same mark are kept, and others thrown away: they would
    be refused.

    Args:
        job: the run.
        coefficient: of the interpolation that was best where it was chosen.
        mark: changes with the restored model and with how is asked.

    Returns:
        `recommendation`, and `tuned_right`, percent of the task questions.
    """
    import hcnr

    folder = job.out / "eval"
    marker = folder / "mark"
    if not (marker.is_file() and marker.read_text(encoding="utf-8") == mark):
        for old in (marker, folder / "metrics.json", *folder.glob("answers-*.jsonl")):
            old.unlink(missing_ok=True)
        with atomic_file(marker) as temporary:
            temporary.write_text(mark, encoding="utf-8")
    base, tuned = job.pair
    asked = {0.0, *COEFFICIENTS, *(() if coefficient is None else (coefficient,))}
    metrics = hcnr.evaluate(
        job.out / "model", benchmarks=[job.questions], tasks=[job.task_questions],
        against=[tuned, base], base=base, tuned=tuned, out=folder,
        chat_template=job.config.chat_template, device=job.config.device,
        coefficients=sorted(asked), max_accuracy_drop=job.recipe.settings.max_accuracy_drop,
        **job.asking, **job.shared,
    )  # fmt: skip
    first = next(iter(metrics["models"].values()))
    return {
        "recommendation": metrics["recommendation"]
        or {"word": "unclear", "reason": "the evaluation has no refusal delta of tuned"},
        "tuned_right": (first.get("tasks_macro") or {}).get("accuracy"),
    }


def write_page(job: Job, written: Mapping[str, str]) -> None:
    """Write the page, and the headline into the model card.

    Args:
        job: the run.
        written: what it is about; only that the step depends on it.
    """
    del written
    from hcnr.report.gather import gather
    from hcnr.report.headline import update_card
    from hcnr.report.page import write_html

    probed = job.out / "probe.json"
    run = gather(
        job.out / "model",
        metrics=job.out / "eval" / "metrics.json",
        sweep=job.out / "sweep.json",
        probe=probed if probed.is_file() else None,
    )
    write_html(run, out=job.out / "report.html")
    update_card(run)
