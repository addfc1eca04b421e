"""What a run works on: its recipe with the data in parts, and what is checked of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.loading import load_sets
from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError
from hcnr.guided.parts import CHOOSING, JUDGING, SAMPLES, Sizes, part_task, write_shuffled
from hcnr.guided.recipe import RunRecipe
from hcnr.models.pair import Pair
from hcnr.progress import Watcher


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
    digests: dict[str, str] = {}
    for source, is_task in ((honesty, False), (task, True)):
        for name, question_set in load_sets(
            [source], None, settings["limit"], task=is_task
        ).items():
            if name in digests:
                raise ConfigError(
                    f"the honesty and the task questions are both called {name}, by their files' "
                    "names; rename one of them"
                )
            digests[name] = question_set.sha256
    return digests


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
            questions = [
                question for benchmark in sets.values() for question in benchmark.questions
            ]
            asked = [question.asked for question in questions]
            encoded = encode_prompts(asked, tokenizer, settings.config().chat_template)
            names = [f"question {question.id!r} of {question.set}" for question in questions]
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
        for benchmark in load_sets([source], None, job.recipe.settings.limit, task=False).values():
            if count := sum(measured.near(question.question) for question in benchmark.questions):
                notes.append(
                    f"{count} of the questions that {what} ({benchmark.name}) are among the "
                    "honesty samples, or nearly: their answers flatter the repair"
                )
    return notes
