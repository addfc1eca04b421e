"""Every number that decides what a text world is, and the key under which it is cached."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping

# Raised whenever the code of the data, the tokenizer or the training changes what a recipe yields.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class TextRecipe:
    """Questions, model and schedule of one text world.

    Attributes:
        seed: Decides the questions drawn, the initial weights and the order of the batches.
        vocabulary: Tokens of the byte-level BPE, special ones included.
        hidden: Width of the model.
        blocks: Number of transformer blocks.
        heads: Attention heads.
        mlp: Inner width of the MLP.
        prompt_words: Longer questions are left out.
        response_words: Longer answers are cut, those of the task left out.
        task_questions: HotpotQA questions that fine-tuning teaches.
        measured: Samples per measured set; the honesty set is half unanswerable.
        validation: Questions of each class and honesty set that settings are chosen by.
        validation_task: The same of the task.
        evaluated: Questions of each class and honesty set that are reported.
        evaluated_task: The same of the task.
        base_epochs: Passes over the questions of the base.
        base_rate: Peak learning rate of the base.
        base_batch: Samples per step of the base.
        tuned_epochs: Passes over the questions of the fine-tuning.
        tuned_rate: Peak learning rate of the fine-tuning.
        tuned_batch: Samples per step of the fine-tuning.
        needs_cuda: Whether training without a GPU is refused, because it would take days.
        threads: CPU threads used for training, fixed because sums depend on their number.
    """

    seed: int = 0
    vocabulary: int = 4096
    hidden: int = 160
    blocks: int = 4
    heads: int = 5
    mlp: int = 432
    prompt_words: int = 48
    response_words: int = 8
    task_questions: int = 2500
    measured: int = 256
    validation: int = 60
    validation_task: int = 150
    evaluated: int = 150
    evaluated_task: int = 300
    base_epochs: int = 6
    base_rate: float = 1e-3
    base_batch: int = 32
    # Few passes at a high rate lose honesty before they overfit. On validation questions (seeds 0
    # and 1) these leave F1 43 and 43 of 77 and 78; 8 epochs at 4e-4 left 63 and 64, with a fifth
    # less gained in the likelihood of held-out answers; 8 at 1e-3 left 24, with less than a third
    # of the gain (seed 0).
    tuned_epochs: int = 4
    tuned_rate: float = 1e-3
    tuned_batch: int = 32
    needs_cuda: bool = False
    threads: int = 1

    @classmethod
    def large(cls, seed: int = 0) -> "TextRecipe":
        """The same questions for a model of 43 M parameters, to be trained on a GPU.

        Its rates are lower in proportion to the width; they were not searched.
        """
        return cls(
            seed=seed,
            vocabulary=8192,
            hidden=512,
            blocks=12,
            heads=8,
            mlp=1408,
            base_rate=4e-4,
            tuned_rate=4e-4,
            needs_cuda=True,
        )

    @classmethod
    def mild(cls, seed: int = 0) -> "TextRecipe":
        """The same base, fine-tuned longer at a lower rate, which costs less honesty."""
        return cls(seed=seed, tuned_epochs=8, tuned_rate=4e-4)

    def key(self, files: Mapping[str, str]) -> str:
        """The name of the cache entry: `text-` and sixteen hex digits.

        They cover every field, the format, torch, for whose one version trainings are
        deterministic, and the data.

        Args:
            files: SHA-256 of each data file by its path below the data root.
        """
        return f"text-{_digest(dataclasses.asdict(self), files)}"

    def base_key(self, files: Mapping[str, str]) -> str:
        """The same of the base alone, which recipes share that differ in their fine-tuning."""
        fields = dataclasses.asdict(self)
        return f"text-base-{_digest({n: fields[n] for n in fields if n not in _TUNING}, files)}"


_TUNING = ("tuned_epochs", "tuned_rate", "tuned_batch")


def _digest(fields: Mapping[str, object], files: Mapping[str, str]) -> str:
    torch = importlib.metadata.version("torch")
    content = json.dumps([FORMAT, torch, dict(fields), dict(files)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
