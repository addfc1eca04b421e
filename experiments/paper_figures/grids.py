"""Which candidates each figure is made of."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

from experiments.trial.candidate_specs import (
    CandidateSpec,
    Interpolated,
    Masked,
    Priority,
    Restored,
    Samples,
)

Figure = Literal["ablation", "sweep", "size"]
FIGURES: tuple[Figure, ...] = ("ablation", "sweep", "size")

SAMPLES = Samples(128)
TASK_WEIGHT = 10.0
"""Of `spectral`, on all matrices: what kept 97 % of NQ on the trial's validation questions."""
BALANCED_WEIGHT = 3.0
SIZES = (128, 32, 64, 16, 256)
"""Samples of each set, in the order in which they are measured."""
NEURON_SHARES = (0.5, 0.25, 0.1, 0.75)
"""R_IW, in the order in which they are tried."""
MATRIX_SHARES = (0.2, 0.4, 0.7, 1.0)
"""R_CW."""
RANDOM = "random neurons"
PRIORITIES: dict[Priority, str] = {
    "kl": "priority",
    "random": RANDOM,
    "honesty": "without the task term",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One candidate of one figure.

    Attributes:
        figure: whose it is.
        labels: what the figure tells it by, in the order of its columns.
        spec: how it is made.
        samples: on what it is measured.
    """

    figure: Figure
    labels: Mapping[str, str | float]
    spec: CandidateSpec
    samples: Samples = SAMPLES


def sweep(samples: Samples) -> Iterator[Case]:
    """`sum` at every share of neurons and of matrices."""
    for neurons in NEURON_SHARES:
        for matrices in MATRIX_SHARES:
            yield Case(
                "sweep",
                {"R_IW": neurons, "R_CW": matrices},
                Restored("sum", in_weight_ratio=neurons, cross_weight_ratio=matrices),
                samples,
            )


def ablation(samples: Samples) -> Iterator[Case]:
    """What of the method is needed: each compensation, with each choice of neurons.

    All matrices, half of the neurons. What is most asked for comes first; a step to base by
    interpolation stands beside it.
    """

    def case(kind: str, neurons: str, spec: CandidateSpec) -> Case:
        return Case("ablation", {"way": kind, "neurons": neurons}, spec, samples)

    for kind in ("sum", "none"):
        for priority, name in PRIORITIES.items():
            yield case(kind, name, Restored(kind, priority=priority))
    for coefficient in (0.5, 0.4, 0.6):
        yield case("interpolation", f"coefficient {coefficient}", Interpolated(coefficient))
    for priority, name in PRIORITIES.items():
        for kind in ("balanced", "joint"):
            spec = Restored(kind, priority=priority, task_weight=BALANCED_WEIGHT)
            yield case(kind, name, spec)
        if priority == "kl":
            full_matrices = Restored("spectral", task_weight=TASK_WEIGHT)
            yield case("spectral", "whole matrices", full_matrices)
    for priority, name in PRIORITIES.items():
        yield case("spectral", name, Masked(TASK_WEIGHT, priority))


def sizes() -> Iterator[Case]:
    """`spectral` and `sum`, both on all matrices, from few and from many samples."""
    for count in SIZES:
        samples = Samples(count)
        for kind in ("sum", "spectral"):
            spec = Restored(kind, task_weight=TASK_WEIGHT if kind == "spectral" else 1.0)
            yield Case("size", {"samples": count, "way": kind}, spec, samples)


def cases(figure: Figure, samples: Samples = SAMPLES) -> tuple[Case, ...]:
    """The candidates of a figure, in the order in which they are tried.

    Args:
        figure: which.
        samples: what sweep and ablation are measured on.
    """
    if figure == "size":
        return tuple(sizes())
    return tuple({"ablation": ablation, "sweep": sweep}[figure](samples))
