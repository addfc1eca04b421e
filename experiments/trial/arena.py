"""What ways of repairing are compared on: one damaged pair, its samples, and its judges.

The arena of the invented world and the arena of real questions look alike from here on.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.trial.instructions import instructed
from experiments.trial.rival_data import RivalData
from experiments.trial.text_panel import answer, make_text_panel
from experiments.trial.text_recipe import TextRecipe
from experiments.trial.text_world import open_text_world
from hcnr.curvature.passes import micro_batches, sample_losses
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo import evaluation
from hcnr.demo.benchmarks import NAMES
from hcnr.demo.evaluation import Examiner
from hcnr.demo.laboratory import Stage, open_lab, quiet
from hcnr.demo.recipe import Recipe
from hcnr.demo.world import REFUSAL, World
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.evaluation.scoring import SetScores

Part = Literal["validation", "evaluated"]
PARTS: tuple[Part, ...] = ("validation", "evaluated")

Responses = dict[str, list[str]]
"""Of one model to the questions of a panel, by set."""
Answer = Callable[[LlamaForCausalLM, QuestionSets], Responses]
"""A model's greedy responses to the questions of a panel."""
TaskFigure = Callable[[QuestionSets, Responses], float]
"""How well responses do on the task, in percent."""

_SET_FIGURES = (
    "f1",
    "refusal_rate_unanswerable",
    "refusal_rate_answerable",
    "refusal_delta",
)
# Padded tokens of one forward pass; more is no faster on a CPU.
_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Marks:
    """Figures of one model on one part, in percent.

    Attributes:
        f1: F1 of refusing; like the next two an unweighted mean over the honesty sets.
        refusal_delta: Refusal rate on unanswerable questions minus that on answerable ones.
        refusal_answerable: Refusal rate on answerable questions; lower is better.
        accuracy: Task questions answered exactly right, by greedy decoding.
        retention: Share of the fine-tuning's gain that is kept, `100 (L_base - L_model) /
            (L_base - L_tuned)`, where L is the mean over held-out task questions of the mean
            negative log-likelihood of the right answer's tokens; NaN where it is undefined.
        sets: `f1`, `refusal_rate_unanswerable`, `refusal_rate_answerable` and `refusal_delta` of
            each honesty set.
        refused: Of each honesty set one digit per question, 1 where the response is a refusal;
            empty where nothing is made of single questions.
    """

    f1: float
    refusal_delta: float
    refusal_answerable: float
    accuracy: float
    retention: float
    sets: dict[str, dict[str, float]]
    refused: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Every figure by its name, for JSON: an undefined one is None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def unasked(cls, retention: float) -> "Marks":
        """Marks of a model that kept too little of the task to be asked anything."""
        return cls(math.nan, math.nan, math.nan, math.nan, retention, {})


@dataclasses.dataclass(frozen=True)
class Arena:
    """One damaged pair with everything that a way of repairing it may use.

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
            part, and `measured_sets`, the honesty sets that the honesty samples come from.
        panels: The questions of each part.
        answer: How models are asked them.
        task_figure: How responses on the task are judged; by exact match if None.
        rival_data: What rivals train on beside the samples, made when first asked for; None where
            a world has none.
        least_retention: Candidates that keep less are not asked the validation questions, where
            asking is what costs; no level may be below it.
        bfloat16: Whether models are asked, and their likelihoods taken, with products in bfloat16;
            weights stay float32.
    """

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
    panels: Mapping[Part, QuestionSets] = dataclasses.field(repr=False)
    answer: Answer = dataclasses.field(repr=False)
    task_figure: TaskFigure | None = dataclasses.field(default=None, repr=False)
    rival_data: Callable[[], RivalData] | None = dataclasses.field(default=None, repr=False)
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

    def judge(self, part: Part) -> "Judge":
        """Prepares the judge of a part, for which base and tuned are loaded."""
        return Judge(self, part)


class Judge:
    """Asks models the questions of one part of an arena; prepared once, asked many times."""

    def __init__(self, arena: Arena, part: Part) -> None:
        """Takes the likelihoods of the held-out task answers at base and tuned."""
        self._arena, self._panel = arena, arena.panels[part]
        self._ends = tuple(
            self._loss(arena.load(path), self._panel) for path in (arena.base, arena.tuned)
        )

    def __call__(
        self, model: LlamaForCausalLM, instruction: str = "", *, least: float = -math.inf
    ) -> Marks:
        """A model's marks.

        Args:
            model: In eval mode.
            instruction: Stands above every question, of honesty and of the task, whose answers'
                likelihood is compared with that of base and tuned without it.
            least: Retention below which nothing is asked and the other figures are NaN.
        """
        panel = instructed(self._panel, instruction)
        kept = self._kept(self._loss(model, panel))
        if kept < least:
            return Marks.unasked(kept)
        with self._arena.asking():
            responses = self._arena.answer(model, panel)
        scores = panel.score(responses)
        marks = _marks(scores, kept)
        if self._arena.task_figure is None:
            return marks
        refused = {
            name: "".join(map(str, found.refused.astype(int)))
            for name, found in scores.honesty.items()
        }
        accuracy = self._arena.task_figure(panel, responses)
        return dataclasses.replace(marks, accuracy=accuracy, refused=refused)

    def retention(self, model: LlamaForCausalLM) -> float:
        """`Marks.retention` alone, from forward passes: nothing is generated."""
        return self._kept(self._loss(model, self._panel))

    def refuse_all(self) -> Marks:
        """What always refusing would be marked: the reason to never read F1 alone."""
        sets = self._panel.sets.items()
        said = {name: [self._arena.refusal] * len(many) for name, many in sets}
        return _marks(self._panel.score(said), math.nan)

    @torch.no_grad()
    def _loss(self, model: LlamaForCausalLM, panel: QuestionSets) -> float:
        """Mean over the task questions of the loss of their right answers."""
        samples = [
            Sample(one.prompt, one.answers[0]) for many in panel.tasks.values() for one in many
        ]
        held_out = tokenize(samples, self._arena.tokenizer)
        batches = micro_batches(model, held_out, range(len(held_out)), _TOKENS)
        with self._arena.asking():
            losses = [sample_losses(model, batch) for batch in batches]
        return float(torch.cat(losses).float().mean())

    def _kept(self, loss: float) -> float:
        base, tuned = self._ends
        # Where fine-tuning gained nothing there is nothing to keep.
        return 100.0 * ((base - loss) / (base - tuned)) if tuned < base else math.nan


def open_synthetic(seed: int, *, quick: bool = False, stage: Stage | None = None) -> Arena:
    """Opens the arena of the invented world; the first time, this trains its pair.

    Args:
        seed: Of the world.
        quick: Take the smaller world of `Recipe.quick`.
        stage: Told when a training starts; silent if None.
    """
    lab = open_lab(Recipe.quick(seed) if quick else Recipe(seed=seed), stage)
    about = json.loads((lab.directory / "lab.json").read_text(encoding="utf-8"))
    world = unmeasured(lab.world)
    panels: dict[Part, QuestionSets] = {
        part: Examiner(lab.tokenizer, world, part).question_sets for part in PARTS
    }
    return Arena(
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
        panels=panels,
        answer=functools.partial(_answer_invented, lab.tokenizer),
    )


def unmeasured(world: World) -> World:
    """The world with a validation of names that no sample is about.

    The lab's own validation asks about measured names, in the relation that was not measured. Ways
    that train on the samples would look better there than they are, and choose by it. Here every
    third of the evaluated names is asked in validation instead.
    """
    splits = world.splits
    asked = {item.name for item in splits["evaluated_known"][::3]}
    parted = {
        f"{part}_{kind}": tuple(
            item for item in splits[f"evaluated_{kind}"] if (item.name in asked) is first
        )
        for kind in ("known", "task")
        for part, first in (("validation", True), ("evaluated", False))
    }
    return dataclasses.replace(world, splits={**splits, **parted})


def open_text(
    data_root: str | os.PathLike[str] | None,
    seed: int,
    *,
    recipe: TextRecipe | None = None,
    stage: Stage | None = None,
) -> Arena:
    """Opens the arena of real questions; the first time, this trains its pair.

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
    found = open_text_world(data_root, recipe, stage)
    return Arena(
        world="text",
        seed=seed,
        directory=found.directory,
        base=found.directory / "base",
        tuned=found.directory / "tuned",
        honesty=found.directory / "honesty.jsonl",
        task=found.directory / "task.jsonl",
        refusal=found.facts["refusal"],
        tokenizer=found.tokenizer,
        facts=found.facts,
        panels={part: make_text_panel(found.data.parts[part]) for part in PARTS},
        answer=functools.partial(answer, found.tokenizer),
    )


def _answer_invented(
    tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, panel: QuestionSets
) -> dict[str, list[str]]:
    prompts = [one.prompt for many in panel.sets.values() for one in many]
    said = iter(evaluation.generate(model, tokenizer, prompts))
    return {name: [next(said) for _ in many] for name, many in panel.sets.items()}


def _marks(scores: SetScores, retention: float) -> Marks:
    honesty, tasks = scores.mean("honesty")[0], scores.mean("tasks")[0]
    return Marks(
        f1=float(honesty["f1"]),
        refusal_delta=float(honesty["refusal_delta"]),
        refusal_answerable=float(honesty["refusal_rate_answerable"]),
        accuracy=float(tasks["exact_match"]),
        retention=retention,
        sets={
            name: {figure: float(scores.values[name][figure]) for figure in _SET_FIGURES}
            for name in scores.honesty
        },
    )
