"""What methods are compared on: one damaged pair, its samples, and its evaluators.

The test bed of the invented world and the test bed of real questions look alike from here on.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.trial.baseline_data import BaselineData
from experiments.trial.evaluator import Evaluator
from experiments.trial.text_data import Split
from experiments.trial.text_questions import answer, make_text_questions
from experiments.trial.text_recipe import TextRecipe
from experiments.trial.text_world import open_text_world
from hcnr.demo import evaluation
from hcnr.demo.benchmarks import NAMES
from hcnr.demo.evaluation import Examiner
from hcnr.demo.laboratory import Stage, open_lab, quiet
from hcnr.demo.recipe import Recipe
from hcnr.demo.world import REFUSAL, World
from hcnr.evaluation.question_sets import QuestionSets

SPLITS: tuple[Split, ...] = ("validation", "evaluated")

Responses = dict[str, list[str]]
"""Of one model to the questions of question sets, by set."""
Answer = Callable[[LlamaForCausalLM, QuestionSets], Responses]
"""A model's greedy responses to the questions of question sets."""
TaskFigure = Callable[[QuestionSets, Responses], float]
"""How well responses do on the task, in percent."""


@dataclasses.dataclass(frozen=True)
class TestBed:
    """One damaged pair with everything that a method may use.

    Attributes:
        world: `synthetic` or `text`.
        seed: Of the world.
        directory: Where it is cached.
        base: The honest checkpoint.
        tuned: The fine-tuned checkpoint that lost its honesty.
        honesty: The honesty samples, jsonl.
        task: The task samples, jsonl.
        refusal: The refusal sentence.
        tokenizer: The tokenizer of both checkpoints.
        facts: `recipe`, `parameters`, `training` (seconds, last losses), `counts` of questions by
            split, and `measured_sets`, the honesty sets that the honesty samples come from.
        question_sets: The questions of each split.
        answer: How models are asked them.
        task_figure: How responses on the task are evaluated; by exact match if None.
        baseline_data: What baselines train on beside the samples, made when first asked for; None
            where a world has none.
        least_retention: Candidates that keep less are not asked the validation questions, where
            asking is what costs; no level may be below it.
        bfloat16: Whether models are asked, and their likelihoods taken, with products in bfloat16;
            weights stay float32.
    """

    # No class of tests, though pytest would take it for one by its name.
    __test__ = False

    world: str
    seed: int
    directory: Path
    base: Path
    tuned: Path
    honesty: Path
    task: Path
    refusal: str
    tokenizer: PreTrainedTokenizerFast
    facts: dict[str, Any]
    question_sets: Mapping[Split, QuestionSets] = dataclasses.field(repr=False)
    answer: Answer = dataclasses.field(repr=False)
    task_figure: TaskFigure | None = dataclasses.field(default=None, repr=False)
    baseline_data: Callable[[], BaselineData] | None = dataclasses.field(default=None, repr=False)
    least_retention: float = -math.inf
    bfloat16: bool = False

    def asking(self) -> contextlib.AbstractContextManager[Any]:
        """In which models are asked, see `bfloat16`."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)

    def load(self, path: Path) -> LlamaForCausalLM:
        """Loads a checkpoint of this pair's architecture: float32, on the CPU, to be asked."""
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return cast(LlamaForCausalLM, model.eval())

    def evaluator(self, split: Split) -> "Evaluator":
        """Prepares the evaluator of a split, for which base and tuned are loaded."""
        return Evaluator(self, split)


def open_synthetic(seed: int, *, quick: bool = False, stage: Stage | None = None) -> TestBed:
    """Opens the test bed of the invented world; the first time, this trains its pair.

    Args:
        seed: Of the world.
        quick: Take the smaller world of `Recipe.quick`.
        stage: Told when a training starts; silent if None.
    """
    lab = open_lab(Recipe.quick(seed) if quick else Recipe(seed=seed), stage)
    about = json.loads((lab.directory / "lab.json").read_text(encoding="utf-8"))
    world = unmeasured(lab.world)
    question_sets: dict[Split, QuestionSets] = {
        split: Examiner(lab.tokenizer, world, split).question_sets for split in SPLITS
    }
    return TestBed(
        world="synthetic",
        seed=seed,
        directory=lab.directory,
        base=lab.base,
        tuned=lab.tuned,
        honesty=lab.honesty,
        task=lab.task,
        refusal=REFUSAL,
        tokenizer=lab.tokenizer,
        facts={
            "recipe": about["recipe"],
            "parameters": sum(one.numel() for one in lab.load(lab.base).parameters()),
            "training": about["training"],
            "counts": {name: len(items) for name, items in world.splits.items()},
            "measured_sets": [NAMES],
        },
        question_sets=question_sets,
        answer=functools.partial(_answer_invented, lab.tokenizer),
    )


def unmeasured(world: World) -> World:
    """The world with a validation of names that no sample is about.

    The lab's own validation asks about measured names, in the relation that was not measured.
    Methods that train on the samples would look better there than they are, and choose by it. Here
    every third of the evaluated names is asked in validation instead.
    """
    splits = world.splits
    asked = {item.name for item in splits["evaluated_known"][::3]}
    parted = {
        f"{split}_{kind}": tuple(
            item for item in splits[f"evaluated_{kind}"] if (item.name in asked) is first
        )
        for kind in ("known", "task")
        for split, first in (("validation", True), ("evaluated", False))
    }
    return dataclasses.replace(world, splits={**splits, **parted})


def open_text(
    data_root: str | os.PathLike[str] | None,
    seed: int,
    *,
    recipe: TextRecipe | None = None,
    stage: Stage | None = None,
) -> TestBed:
    """Opens the test bed of real questions; the first time, this trains its pair.

    Args:
        data_root: Folder with the authors' files; `$HCNR_DATA_ROOT` if None.
        seed: Of the world.
        recipe: Sizes and schedules, whose own seed does not count; the default ones if None.
        stage: Told when a training starts; silent if None.

    Raises:
        DataError: There is no data root, or a file is missing or not the known one.
        ConfigError: The recipe needs a GPU to be trained, and there is none.
    """
    recipe = dataclasses.replace(recipe or TextRecipe(), seed=seed)
    text_world = open_text_world(data_root, recipe, stage)
    return TestBed(
        world="text",
        seed=seed,
        directory=text_world.directory,
        base=text_world.directory / "base",
        tuned=text_world.directory / "tuned",
        honesty=text_world.directory / "honesty.jsonl",
        task=text_world.directory / "task.jsonl",
        refusal=text_world.facts["refusal"],
        tokenizer=text_world.tokenizer,
        facts=text_world.facts,
        question_sets={
            split: make_text_questions(text_world.data.splits[split]) for split in SPLITS
        },
        answer=functools.partial(answer, text_world.tokenizer),
    )


def _answer_invented(
    tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, questions: QuestionSets
) -> dict[str, list[str]]:
    prompts = [one.prompt for many in questions.sets.values() for one in many]
    responses = iter(evaluation.generate(model, tokenizer, prompts))
    return {name: [next(responses) for _ in many] for name, many in questions.sets.items()}
