"""The methods that a trial on a pretrained model compares, from the most to the least important.

One candidate costs minutes on two cores, so that a method has a handful of settings, where
`methods` has a dozen. Controls differ from the method that they control in the neurons alone.
"""

import dataclasses

from experiments.trial.candidate_specs import (
    CandidateSpec,
    FineTuned,
    Interpolated,
    Masked,
    Preferred,
    Priority,
    Prompted,
    Rait,
    Rehearsed,
    Restored,
)
from experiments.trial.instructions import INSTRUCTIONS
from experiments.trial.methods import FINE_TUNING, INTERPOLATION, METHODS, Method
from experiments.trial.real_world import PACKAGES

_MATRICES = (0.4, 0.7, 1.0)
_RATES = (1e-5, 3e-5)


def _weighed(kind: str, weights: tuple[float, ...]) -> tuple[Restored, ...]:
    """All matrices at some weights of the task, and fewer matrices at the middle one."""
    return (
        *(Restored(kind, task_weight=mu) for mu in weights),
        *(Restored(kind, cross_weight_ratio=share, task_weight=3.0) for share in _MATRICES[:2]),
    )


_NONE, _SUM, _JOINT = (
    tuple(Restored(kind, in_weight_ratio=neurons, cross_weight_ratio=share) for share in _MATRICES)
    for kind, neurons in (("none", 0.5), ("sum", 0.5), ("joint", 0.3))
)
_BALANCED = _weighed("balanced", (1.0, 3.0, 10.0))
_ONE_SIDED = {"sum": _SUM, "balanced": _BALANCED, "none": _NONE, "joint": _JOINT}


def _controls(priority: Priority, name: str) -> tuple[Method, ...]:
    """The methods that choose neurons, with others chosen."""
    return tuple(
        Method(
            f"{kind}, {name}",
            tuple(dataclasses.replace(one, priority=priority) for one in grid),
        )
        for kind, grid in _ONE_SIDED.items()
    )


def _masked(neurons: Priority) -> tuple[CandidateSpec, ...]:
    return tuple(Masked(mu, neurons) for mu in (1.0, 3.0, 10.0))


REAL_METHODS = (
    Method(INTERPOLATION, tuple(Interpolated(round(0.1 * step, 1)) for step in range(1, 8))),
    Method("spectral", _weighed("spectral", (1.0, 3.0, 10.0, 30.0))),
    Method(
        "spectral, blocks of 128",
        tuple(Restored("spectral", task_weight=mu, block_size=128) for mu in (1.0, 3.0, 10.0)),
    ),
    Method("sum", _SUM),
    Method("balanced", _BALANCED),
    Method("none", _NONE),
    Method(FINE_TUNING[1], tuple(FineTuned("both", rate, 3) for rate in _RATES)),
    Method("rait", tuple(Rait(rate) for rate in _RATES)),
    # Of DPO and ORPO a rate that is usual for large models and one that moves a small one.
    Method("dpo", tuple(Preferred("dpo", rate) for rate in (2e-6, 1e-5))),
    Method("orpo", tuple(Preferred("orpo", rate) for rate in (8e-6, 3e-5))),
    Method("prompt", tuple(map(Prompted, INSTRUCTIONS))),
    Method("rehearsal", (Rehearsed(1), Rehearsed(3))),
    Method("joint", _JOINT),
    *_controls("random", "random neurons"),
    Method(FINE_TUNING[0], tuple(FineTuned("honesty", rate, 3) for rate in _RATES)),
    *_controls("honesty", "without the task"),
    # On part of the neurons spectral is another repair than on whole matrices: three on one mask.
    Method("spectral, priority neurons", _masked("kl")),
    Method("spectral, random neurons", _masked("random")),
    Method("spectral, without the task", _masked("honesty")),
    Method(
        "natural",
        tuple(Restored("natural", task_weight=10.0, steps=steps) for steps in (1, 3)),
    ),
)


def methods_of(world: str) -> tuple[Method, ...]:
    """The methods that are compared in a world."""
    return REAL_METHODS if world in PACKAGES else METHODS
