"""What the trial's table leaves open: one thing varied at a time, evaluated like a method."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from experiments.trial.candidate_specs import (
    WHOLE_MATRIX_KINDS,
    CandidateSpec,
    FineTuned,
    Masked,
    Restored,
    Samples,
)
from experiments.trial.fair_trial import Environment, check_seeds, run_seeds
from experiments.trial.methods import SAMPLES, Method
from experiments.trial.trial_files import Tables, prepared
from experiments.trial.variation_table import VariationTable
from hcnr.data.samples import load_samples

LEVEL = 90.0
"""The one level of retention at which variations are compared."""

_KINDS = ("none", "sum", "joint", "balanced", *WHOLE_MATRIX_KINDS)
_SIZES = (32, 64, 128, 256)
_GENTLE = (0.1, 0.25, 0.5)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        kind: What is varied; arms are compared within a kind.
        variant: How.
        way: Its settings, named `LETTER kind, variant`.
    """

    kind: str
    variant: str
    method: Method


@dataclasses.dataclass(frozen=True)
class Question:
    """One thing that is varied.

    Attributes:
        letter: For short.
        title: The question.
        reference: The variant that the others of a kind are compared with.
        arms: In printed order.
    """

    letter: str
    title: str
    reference: str
    arms: tuple[Arm, ...]


def list_questions(available: int) -> tuple[Question, ...]:
    """The questions that can be asked of a world.

    Args:
        available: Honesty samples that it has; half of them are refusals.
    """
    sizes = [size for size in _SIZES if size <= available]
    half = min(SAMPLES.count, available // 2)
    mixed, refusals = Samples(half), Samples(half, "refusals")
    learning = ("sum", "balanced", "spectral", "natural")
    return (
        _selection(),
        _question(
            "b",
            "Fisher scores taken at the tuned model or at the base?",
            "at tuned",
            [
                (kind, f"at {where}", _grid(kind, fisher_at=where), SAMPLES)
                for kind in ("none", "sum", "balanced")
                for where in _PLACES
            ],
        ),
        _question(
            "c",
            "How many samples of each set?",
            str(max((size for size in sizes if size <= SAMPLES.count), default=0)),
            [
                (kind, str(size), grid, Samples(size))
                for kind, grid in (*((kind, _grid(kind)) for kind in learning), _tuning())
                for size in sizes
            ],
        ),
        _question(
            "d",
            f"Honesty samples: {half} refusals and answers in turn, or {half} refusals?",
            "mixed",
            [
                (kind, variant, grid, samples)
                for kind, grid in (*((kind, _grid(kind)) for kind in learning), _tuning())
                for variant, samples in (("mixed", mixed), ("refusals", refusals))
            ],
        ),
        _question(
            "e",
            "The most perturbed 40 % of the matrices, or all of them?",
            "R_CW 1",
            [
                (kind, f"R_CW {share:g}", _grid(kind, share), SAMPLES)
                for kind in _KINDS
                for share in (0.4, 1.0)
            ],
        ),
    )


def run_variations(
    environment: Environment,
    out: str | Path,
    seeds: Sequence[int],
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> VariationTable:
    """Ask every question in every seed of a world and write the tables.

    Args:
        environment: Where.
        out: Gets `variations-seed-N.json` as soon as a seed is finished, then `variations.json`
            and `variations.md`. What a trial evaluated there is not evaluated again.
        seeds: Of the worlds.
        overwrite: Replace the tables even where they hold seeds that are not asked for.
        console: Where progress is shown; the terminal if None.

    Raises:
        ConfigError: No seeds, or more than there are t values for.
        OutputError: `out` cannot be written to, holds a trial of other pairs, or tables that would
            be lost, or another process is at one of the seeds.
    """
    check_seeds(len(seeds))
    console = console or Console()
    directory = prepared(out)
    # All seeds of a world have as many samples.
    available = load_samples(environment.open(seeds[0], None).honesty).available
    questions = list_questions(available)
    methods = [arm.method for question in questions for arm in question.arms]
    names = [method.name for method in methods]
    tables = Tables(directory, "variations", environment.world, seeds, names, overwrite)
    tables.check()
    results = run_seeds(
        environment, directory, seeds, methods, (LEVEL,), "variations-seed", console
    )
    table = VariationTable(environment.world, questions, results, LEVEL)
    if reason := tables.write(table.as_dict(), table.to_markdown()):
        console.print(reason, highlight=False, markup=False)
    return table


_PLACES: tuple[Literal["tuned", "base"], ...] = ("tuned", "base")


def _selection() -> Question:
    """Are the two-sided kinds helped by choosing neurons at all?"""
    priorities: tuple[tuple[str, Literal["kl", "random"]], ...] = (
        ("priority", "kl"),
        ("random", "random"),
    )
    weights = (0.1, 0.3, 1.0, 3.0, 10.0)
    masked: list[tuple[str, str, tuple[CandidateSpec, ...], Samples]] = [
        ("spectral", variant, tuple(Masked(mu, neurons) for mu in weights), SAMPLES)
        for variant, neurons in priorities
    ]
    whole_matrices = tuple(Restored("spectral", task_weight=mu) for mu in weights)
    return _question(
        "a",
        "Half of the neurons by priority, half of them at random, or whole matrices?",
        "priority",
        [
            *(
                ("balanced", variant, _grid("balanced", priority=neurons), SAMPLES)
                for variant, neurons in priorities
            ),
            *masked,
            ("spectral", "whole matrices", whole_matrices, SAMPLES),
        ],
    )


def _grid(kind: str, share: float = 1.0, **changes: Any) -> tuple[CandidateSpec, ...]:
    """A few settings of a kind with the same share of matrices."""
    fixed = {"cross_weight_ratio": share, **changes}
    if kind in ("none", "sum", "joint"):
        return tuple(Restored(kind, in_weight_ratio=part, **fixed) for part in _GENTLE)
    if kind == "balanced":
        return tuple(Restored(kind, task_weight=mu, **fixed) for mu in (1.0, 3.0, 10.0, 30.0))
    if kind == "spectral":
        return tuple(Restored(kind, task_weight=mu, **fixed) for mu in (0.3, 1.0, 3.0, 10.0))
    weights, walks = (
        ((10.0, 100.0), ((3, 0.3), (5, 0.2)))
        if kind == "natural"
        else ((3.0, 10.0), ((1, 0.3), (3, 0.1)))
    )
    return tuple(
        Restored(kind, task_weight=mu, steps=steps, step_size=size, **fixed)
        for mu, (steps, size) in itertools.product(weights, walks)
    )


def _tuning() -> tuple[str, tuple[CandidateSpec, ...]]:
    """Fine-tuning back, on either choice of samples."""
    choices: tuple[Literal["honesty", "both"], ...] = ("honesty", "both")
    grid = tuple(FineTuned(on, rate, 5) for on in choices for rate in (3e-5, 1e-4))
    return "fine-tuning", grid


def _question(
    letter: str,
    title: str,
    reference: str,
    arms: Sequence[tuple[str, str, tuple[CandidateSpec, ...], Samples]],
) -> Question:
    return Question(
        letter,
        title,
        reference,
        tuple(
            Arm(kind, variant, Method(f"{letter} {kind}, {variant}", grid, samples))
            for kind, variant, grid, samples in arms
        ),
    )
