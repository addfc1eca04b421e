"""Every number that decides what the lab is: one frozen recipe, whose hash is its cache key."""

import dataclasses
import hashlib
import importlib.metadata
import json

# Raised whenever the code of the world, the tokenizer or the training changes what a recipe yields.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """World, model and schedule of one laboratory.

    Attributes:
        seed: decides names, facts, initial weights and batches.
        first_names: number of first-name words; a name is a first and a last word.
        last_names: number of last-name words.
        answers: number of possible answers of each relation.
        known_names: names with one fact per relation, all of them trained on.
        task_names: known names whose fact in the new relation is fine-tuned on.
        unknown_names: names that the base is trained to refuse.
        evaluated_unknown: names on which refusals are evaluated, seen by no training and no
            measuring.
        measured: samples per measured set; the honesty set is half unknown, half known.
        hidden: width of the model.
        blocks: number of transformer blocks.
        heads: attention heads.
        mlp: inner width of the MLP.
        base_steps: optimiser steps of the base.
        base_rate: peak learning rate of the base.
        tuned_steps: optimiser steps of the fine-tuning.
        tuned_rate: peak learning rate of the fine-tuning.
        base_batch: samples per step of the base.
        tuned_batch: samples per step of the fine-tuning.
        refusal_share: share of unknown names in every batch of the base.
        threads: CPU threads used for training, fixed because sums depend on their number.
    """

    seed: int = 0
    first_names: int = 60
    last_names: int = 60
    answers: int = 40
    known_names: int = 600
    task_names: int = 400
    unknown_names: int = 1500
    evaluated_unknown: int = 400
    measured: int = 128
    hidden: int = 128
    blocks: int = 4
    heads: int = 4
    mlp: int = 352
    base_steps: int = 1000
    base_rate: float = 2e-3
    base_batch: int = 256
    # A gentle rate on part of the names keeps this a loss of honesty, not of everything: all 600
    # names at batch 256 and 3e-4 left F1 0 (seed 0), these settings F1 47, 54 and 34 at 94, 93 and
    # 95 % on the task (seeds 0, 1, 2). Longer is milder: 600 steps at 1e-4 left F1 63 and 66.
    tuned_steps: int = 300
    tuned_rate: float = 2e-4
    tuned_batch: int = 128
    refusal_share: float = 0.5
    # Two threads are faster on two idle cores (0.09 against 0.16 s a step), but they wait for each
    # other on busy ones: there a training that took one thread 96 s was not done in 200 s.
    threads: int = 1

    @classmethod
    def quick(cls, seed: int = 0) -> "Recipe":
        """A smaller world for continuous integration, in which the same effects still show."""
        return cls(
            seed=seed,
            first_names=32,
            last_names=32,
            known_names=260,
            task_names=210,
            unknown_names=500,
            evaluated_unknown=120,
            measured=96,
            hidden=96,
            blocks=3,
            mlp=256,
            base_steps=600,
            base_batch=128,
            tuned_batch=96,
        )

    @property
    def key(self) -> str:
        """The name of the cache entry: sixteen hex digits over every field, format and torch.

        Trainings are deterministic for one version of torch only.
        """
        torch = importlib.metadata.version("torch")
        fields = json.dumps([FORMAT, torch, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]
