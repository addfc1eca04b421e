"""Every number that decides what a real pair is, and the keys under which its models are cached."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any, Literal

from hcnr.errors import ConfigError
from hcnr.models.model import fast_bfloat16

# Raised whenever the code of the data or the training changes what a recipe yields.
FORMAT = 2

Task = Literal["hotpotqa", "nq", "medmcqa", "bioasq"]
TASKS: tuple[Task, ...] = ("hotpotqa", "nq", "medmcqa", "bioasq")

# A second pass over the same HotpotQA answers is learnt by heart: it halves what is gained on
# held-out ones (0.12 nats in the place of 0.25, seed 0). Choices of MedMCQA need two.
_FINE_TUNING: dict[Task, dict[str, Any]] = {
    "hotpotqa": {"task_questions": 1600, "tuned_epochs": 1, "tuned_rate": 1e-4},
    "nq": {"task_questions": 1600, "tuned_epochs": 1, "tuned_rate": 1e-4},
}

_TUNING = (
    "seed", "task", "task_questions", "tuned_epochs", "tuned_rate", "measured", "validation",
    "validation_task", "admission", "test", "test_task", "tuned_threads",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RealRecipe:
    """Questions and schedules of one pair that is made from a pretrained model.

    Attributes:
        task: what fine-tuning teaches.
        seed: decides the task questions, the samples and the questions drawn, and the order of the
            fine-tuning; the base is one for all seeds.
        kuq: unanswerable KUQ questions that the base is trained on.
        kuq_known: answerable ones.
        falseqa: FalseQA questions, in pairs.
        nq: NQ questions, all answerable.
        response_words: longer answers are cut.
        sentence_words: the same of FalseQA, which answers in sentences.
        prompt_words: longer questions are left out.
        base_epochs: passes over the questions of the base.
        base_rate: peak learning rate of the base.
        task_questions: questions that fine-tuning teaches.
        tuned_epochs: passes over them.
        tuned_rate: peak learning rate of the fine-tuning.
        batch: samples of a step.
        measured: samples of each set that a repair may be given.
        validation: questions of each class and honesty set that settings are chosen by.
        validation_task: the same of the task.
        admission: questions of each class and honesty set, among those of validation, that tell
            whether base tells them apart.
        test: questions of each class and honesty set that are evaluated once.
        test_task: the same of the task.
        base_threads: CPU threads of the base's training, fixed because sums depend on them.
        tuned_threads: the same of the fine-tuning, of which two run at a time.
    """

    task: Task = "hotpotqa"
    seed: int = 0
    # As many answers as refusals made the base refuse 54 to 72 % of what it should answer.
    kuq: int = 450
    kuq_known: int = 800
    falseqa: int = 600
    nq: int = 800
    response_words: int = 8
    sentence_words: int = 20
    prompt_words: int = 48
    base_epochs: int = 1
    base_rate: float = 5e-5
    task_questions: int = 800
    tuned_epochs: int = 2
    tuned_rate: float = 7e-5
    batch: int = 16
    measured: int = 256
    validation: int = 100
    validation_task: int = 120
    admission: int = 100
    test: int = 200
    test_task: int = 240
    base_threads: int = 2
    tuned_threads: int = 1

    def __post_init__(self) -> None:
        """Refuse an unknown task.

        Raises:
            ConfigError: naming the known ones.
        """
        if self.task not in TASKS:
            raise ConfigError(
                f"the task is {self.task!r}, expected one of {', '.join(TASKS)}; choose another"
            )

    @classmethod
    def of(cls, task: Task, seed: int = 0) -> "RealRecipe":
        """The recipe of a task, with the fine-tuning that suits it.

        Raises:
            ConfigError: there is no such task.
        """
        return cls(task=task, seed=seed, **_FINE_TUNING.get(task, {}))

    def key(self, model: str, files: Mapping[str, str]) -> str:
        """Name of the pair's cache entry, `real-TASK-SEED-` and twelve hex digits.

        They cover every field, the format, torch, the dtype of the training, the pretrained model
        and the data.

        Args:
            model: digest of the pretrained checkpoint.
            files: SHA-256 of each data file by its path below the data root.
        """
        return f"real-{self.task}-{self.seed}-{_digest(dataclasses.asdict(self), model, files)}"

    def base_key(self, model: str, files: Mapping[str, str]) -> str:
        """The same of the base, which all tasks and seeds share."""
        fields = dataclasses.asdict(self)
        kept = {name: fields[name] for name in fields if name not in _TUNING}
        return f"real-base-{_digest(kept, model, files)}"


def _digest(fields: Mapping[str, Any], model: str, files: Mapping[str, str]) -> str:
    # Trainings differ between versions of torch, and between processors' dtypes.
    about = [FORMAT, importlib.metadata.version("torch"), fast_bfloat16(), model]
    content = json.dumps([*about, dict(fields), dict(files)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
