"""What each step of a run does, by the functions of the commands of the same names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.loading import load_sets
from hcnr.checkpoint import atomic_file
from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError, DataError
from hcnr.guided.parts import CHOOSING, JUDGING, SAMPLES, Sizes, part_task, write_shuffled
from hcnr.guided.recipe import RunRecipe
from hcnr.models.pair import Pair
from hcnr.progress import Watcher

COEFFICIENTS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the interpolation that a repair is chosen beside; past half way little of the task is left."""
WEIGHTS = (1.0, 3.0, 10.0)
"""Times the searched task weight: heavier ones keep more of the task, by its loss as well."""


@dataclass(frozen=True)
class Job:
    """A recipe with its data in parts.

    Attributes:
        recipe: with absolute paths.
        out: directory of the run.
        config: of `restore`, `samples` as many as the parts have to measure.
        honesty: samples to measure.
        validation: honesty questions to choose by.
        questions: the same to judge by.
        task_validation: task questions to choose by.
        task_questions: the same to judge by.
        watcher: told about stages and progress.
    """

    recipe: RunRecipe
    out: Path
    config: RestoreConfig
    honesty: str
    validation: str
    questions: str
    task_validation: str
    task_questions: str
    watcher: Watcher | None

    @property
    def data(self) -> Path:
        """Folder of the parts."""
        return self.out / "data"

    @property
    def pair(self) -> tuple[str, str]:
        """Directories of base and tuned."""
        return self.recipe.models.base, self.recipe.models.tuned

    @property
    def task(self) -> str:
        """Task samples to measure, and after them those that are held back."""
        return str(self.data / SAMPLES)

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments that every function takes."""
        return {"tokenizer": self.recipe.models.tokenizer, "watcher": self.watcher}

    @property
    def asking(self) -> dict[str, Any]:
        """Arguments of whatever asks questions."""
        settings = self.recipe.settings
        return {
            "limit": settings.limit,
            "batch_size": settings.batch_size,
            "max_new_tokens": settings.max_new_tokens,
        }


def parted(recipe: RunRecipe, out: Path, watcher: Watcher | None) -> tuple[Job, Sizes]:
    """Part the data; cheap, so done at every start.

    Raises:
        DataError: the task samples cannot be parted, or both data sets are the same.
    """
    data, settings = recipe.data, recipe.settings
    folder = out / "data"
    sizes = part_task(
        data.task,
        folder,
        settings.samples,
        settings.shuffle_seed,
        judging=data.task_questions is None,
    )
    honesty = data.honesty
    if settings.shuffle_seed is not None:
        # The task's parts are in their order already, and one seed is for both files.
        honesty = str(write_shuffled(honesty, folder / "honesty.jsonl", settings.shuffle_seed))
    config = settings.config().replace(samples=sizes.measured, shuffle_seed=None)
    job = Job(
        recipe, out, config, honesty, data.validation, data.questions,
        data.task_validation or str(folder / CHOOSING),
        data.task_questions or str(folder / JUDGING), watcher,
    )  # fmt: skip
    if data.validation == data.questions:
        raise ConfigError(
            f"data.validation and data.questions are both {data.questions}, and questions that "
            "choose cannot judge; give different ones to --validation and --questions"
        )
    return job, sizes


def questions_digest(honesty: str, task: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of sets of questions, by their names; reads and checks them.

    Raises:
        HcnrError: a set cannot be read, or both have one name.
    """
    found: dict[str, str] = {}
    for source, is_task in ((honesty, False), (task, True)):
        for name, one in load_sets([source], None, settings["limit"], task=is_task).items():
            if name in found:
                raise ConfigError(
                    f"the honesty and the task questions are both called {name}, by their files' "
                    "names; rename one of them"
                )
            found[name] = one.sha256
    return found


def check_questions(job: Job, pair: Pair) -> None:
    """Refuse questions that the models could not be judged by, before anything is measured.

    Raises:
        HcnrError: a set cannot be read, honesty questions are all of one kind, or a question with
            its answer is longer than the models read.
    """
    from hcnr.evaluation.prompts import encode_prompts
    from hcnr.models.limits import check_room
    from hcnr.search.validation import check_classes

    settings = job.recipe.settings
    tokenizer = pair.tokenizer(job.recipe.models.tokenizer)
    honesty, task = (job.validation, job.questions), (job.task_validation, job.task_questions)
    for sources, is_task in ((honesty, False), (task, True)):
        for source in sources:
            sets = load_sets([source], None, settings.limit, task=is_task)
            if not is_task:
                check_classes(sets, "a run")
            questions = [one for found in sets.values() for one in found.questions]
            asked = [one.asked for one in questions]
            encoded = encode_prompts(asked, tokenizer, settings.config().chat_template)
            names = [f"question {one.id!r} of {one.set}" for one in questions]
            room = dict(zip(names, encoded, strict=True))
            check_room(room, settings.max_new_tokens, pair.base.limits & pair.tuned.limits)


def overlap_notes(job: Job) -> list[str]:
    """Sentences where honesty questions that choose or judge are measured samples too, or nearly.

    Raises:
        HcnrError: a set cannot be read.
    """
    from hcnr.data.overlap import QuestionIndex
    from hcnr.data.samples import load_samples

    samples = load_samples(job.honesty, limit=2 * job.config.samples).samples
    measured = QuestionIndex(sample.prompt for sample in samples)
    notes = []
    for what, source in (("choose", job.validation), ("judge", job.questions)):
        for found in load_sets([source], None, job.recipe.settings.limit, task=False).values():
            if count := sum(measured.near(one.question) for one in found.questions):
                notes.append(
                    f"{count} of the questions that {what} ({found.name}) are among the honesty "
                    "samples, or nearly: their answers flatter the repair"
                )
    return notes


def probe_pair(job: Job) -> str:
    """Probe the pair; one sentence, also where it cannot be done, which hinders nothing."""
    from hcnr.probes.probe import probe

    try:
        report = probe(*job.pair, job.honesty, config=_probing(job), **job.shared)
    except (ConfigError, DataError) as error:
        return f"no probes: {error}"
    with atomic_file(job.out / "probe.json") as temporary:
        temporary.write_text(report.to_json(), encoding="utf-8")
    return report.sentence


def _probing(job: Job) -> RestoreConfig:
    """Probes read prompts alone and learn from many: four times the samples, where there are."""
    return job.config.replace(samples=4 * job.recipe.settings.samples)


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
    from hcnr.choosing.front import rival
    from hcnr.choosing.recommendation import least_kept
    from hcnr.search.grid import Grid
    from hcnr.search.result import as_options

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
    found = hcnr.sweep(
        *job.pair, job.honesty, job.task, grid=grid, benchmarks=[job.validation],
        tasks=[job.task_validation], coefficients=COEFFICIENTS, refine=False, out=job.out,
        max_accuracy_drop=settings.max_accuracy_drop, config=config, overwrite=True,
        **job.asking, **job.shared,
    )  # fmt: skip
    best = found.recommendation.index
    curve = [(0.0, found.tuned), *found.interpolation, (1.0, found.base)]
    least = least_kept(found.tuned.task_accuracy, settings.max_accuracy_drop)
    place = rival([scores for _, scores in curve], least)
    # Without one that is above tuned the searched weight stands: what judges has the last word.
    chosen = found.candidates[best or 0].settings
    return {
        "config": chosen,
        "coefficient": None if place is None else curve[place][0],
        "word": found.recommendation.word,
        "reason": f"{as_options(chosen)}, on the validation questions {found.recommendation.word}: "
        f"{found.recommendation.reason}",
        "notes": list(dict.fromkeys(found.messages)),
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
