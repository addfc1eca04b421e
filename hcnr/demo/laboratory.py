"""A ready laboratory: the directories that the tool is run on, trained once and then cached."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from hcnr.cache import cached_directory
from hcnr.demo.benchmarks import write_questions
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer
from hcnr.demo.training import Progress, train_base, train_tuned
from hcnr.demo.world import World, build_world

Stage = Callable[[str], Progress]
"""Called with the name of a training that starts; returns whom to tell about its steps."""


@dataclasses.dataclass(frozen=True)
class Laboratory:
    """One world with its two checkpoints and its two sample files.

    Attributes:
        directory: holds `base/`, `tuned/`, `honesty.jsonl`, `task.jsonl`, `lab.json` and the
            `hcnr.demo.benchmarks.QUESTION_FILES`.
        recipe: what it was made from.
        world: names, facts and splits.
        tokenizer: the tokenizer that both checkpoints carry.
    """

    directory: Path
    recipe: Recipe
    world: World
    tokenizer: PreTrainedTokenizerFast

    @property
    def base(self) -> Path:
        """The honest checkpoint."""
        return self.directory / "base"

    @property
    def tuned(self) -> Path:
        """The fine-tuned checkpoint that lost its honesty."""
        return self.directory / "tuned"

    @property
    def honesty(self) -> Path:
        """The honesty samples."""
        return self.directory / "honesty.jsonl"

    @property
    def task(self) -> Path:
        """The task samples."""
        return self.directory / "task.jsonl"

    @property
    def training(self) -> dict[str, float]:
        """Seconds and last losses of the two trainings, as they were when it was made."""
        return json.loads((self.directory / "lab.json").read_text(encoding="utf-8"))["training"]

    def load(self, path: Path) -> LlamaForCausalLM:
        """Load a checkpoint of this lab's architecture."""
        with quiet():
            model = LlamaForCausalLM.from_pretrained(path)
            assert isinstance(model, LlamaForCausalLM)
            return model.eval()


def open_lab(recipe: Recipe, stage: Stage | None = None) -> Laboratory:
    """Open the laboratory of a recipe; the first time, this trains both of its models.

    Args:
        recipe: world, models and schedules.
        stage: told when a training starts; silent if None.
    """
    world = build_world(recipe)
    tokenizer = build_tokenizer(world)
    directory = cached_directory(
        recipe.key, lambda directory: make_lab(directory, recipe, world, tokenizer, stage)
    )
    # Here and not in `make_lab`: they follow from the world, and older directories lack them.
    write_questions(world, directory)
    return Laboratory(directory, recipe, world, tokenizer)


def make_lab(
    directory: Path,
    recipe: Recipe,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    stage: Stage | None = None,
) -> None:
    """Train base and tuned and write everything a `Laboratory` holds into a directory."""
    figures: dict[str, float] = {}
    model = train_base(recipe, world, tokenizer, timed("base", figures, stage))
    save_model(model, tokenizer, directory / "base")
    train_tuned(recipe, world, tokenizer, model, timed("tuned", figures, stage))
    save_model(model, tokenizer, directory / "tuned")
    world.write_samples(directory)
    about = {
        "recipe": dataclasses.asdict(recipe),
        "key": recipe.key,
        "torch": str(torch.__version__),
        "training": figures,
    }
    (directory / "lab.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def timed(name: str, figures: dict[str, float], stage: Stage | None) -> Progress:
    """Start the clock of a training; its end writes `NAME_seconds` and `NAME_loss`.

    Args:
        name: of the training.
        figures: where the two are written.
        stage: told about the training, too; nobody if None.
    """
    tell = stage(name) if stage is not None else None
    start = time.perf_counter()

    def progress(done: int, total: int, loss: float) -> None:
        if tell is not None:
            tell(done, total, loss)
        if done == total:
            figures[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
            figures[f"{name}_loss"] = loss

    return progress


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' own progress bars, which would tear ours apart."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write a checkpoint directory with its tokenizer."""
    with quiet():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
