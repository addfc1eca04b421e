"""Every method that the fair trial compares, each with its grid of settings.

A method is declared here and nowhere else: a name, and 12 to 16 settings to choose from by
validation questions, so that no method wins by many more tries. A grid goes from hardly any change
as far as seemed worth while; not every method has settings near every level of retention, so rows
are compared at what they keep, never at the level alone. Some were widened after a first trial on
the synthetic seeds 0 to 2, whose validation questions had chosen their edges (`joint`, `natural`,
the shares of neurons); the published synthetic table is of other seeds.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from typing import Literal

from experiments.trial.candidate_specs import (
    CandidateSpec,
    FineTuned,
    Interpolated,
    Restored,
    Samples,
)
from hcnr.errors import ConfigError
from hcnr.kinds import Axis

_AXES: tuple[Axis, ...] = ("output", "input")
# The paper's share of neurons and gentler ones, without which `sum` would have nothing to select
# where most of the task is to be kept; its share of matrices, and all of them. `joint` changes more
# with fewer neurons.
_SHARES, _FEW, _MATRICES = (0.05, 0.1, 0.25, 0.5), (0.02, 0.05, 0.1, 0.25), (0.4, 1.0)
_WALKS = ((1, 0.4), (2, 0.3), (3, 0.3), (5, 0.2), (8, 0.3))
_ON: tuple[Literal["honesty", "both"], ...] = ("honesty", "both")
# A decade and a half: 1e-5 hardly moves these models in five epochs, 3e-4 is past what tuned them.
_RATES, _EPOCHS = (1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 3e-4), (3, 5)


SAMPLES = Samples()
"""What a user of the defaults has: 128 of each set, refusals and answers in turn."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of repairing, which `--ways` and the tables call so.

    Attributes:
        name: As printed and as given to `--ways`.
        grid: The settings to choose from.
        samples: What it is given of the world's samples.
    """

    name: str
    grid: tuple[CandidateSpec, ...]
    samples: Samples = SAMPLES


def _one_sided(
    kind: str, priority: Literal["kl", "random"] = "kl", shares: Sequence[float] = _SHARES
) -> tuple[CandidateSpec, ...]:
    """Both axes, each share of neurons with each share of matrices: 16 settings."""
    return tuple(
        Restored(kind, axis, share, matrices, priority)
        for axis, share, matrices in itertools.product(_AXES, shares, _MATRICES)
    )


def _back(on: Literal["honesty", "both"]) -> tuple[CandidateSpec, ...]:
    """Six rates and two numbers of epochs: 12 settings."""
    return tuple(FineTuned(on, rate, epochs) for rate in _RATES for epochs in _EPOCHS)


INTERPOLATION = "interpolation"
FINE_TUNING = ("fine-tuning, honesty", "fine-tuning, both")
"""The baselines: honesty samples alone, or task samples among them."""

METHODS = (
    # Dense where most of the task is kept, which is where the levels are.
    Method(
        INTERPOLATION,
        tuple(Interpolated(round(0.05 * step, 2)) for step in (*range(1, 13), 14, 16, 18, 19)),
    ),
    # The paper's two controls: neurons at random, without compensation and with its own.
    Method("none, random neurons", _one_sided("none", "random")),
    Method("sum, random neurons", _one_sided("sum", "random")),
    Method("none", _one_sided("none")),
    Method("sum", _one_sided("sum")),
    Method("joint", _one_sided("joint", shares=_FEW)),
    # The paper's share of neurons; the task weight decides how much of them is given back. Few
    # matrices keep most of the task at any weight, so the large ones are for all matrices.
    Method(
        "balanced",
        tuple(
            Restored("balanced", axis, 0.5, matrices, task_weight=mu)
            for axis in _AXES
            for matrices, weights in zip(
                _MATRICES, ((0.3, 1.0, 3.0), (0.3, 1.0, 3.0, 10.0, 30.0)), strict=True
            )
            for mu in weights
        ),
    ),
    Method(
        "spectral",
        tuple(
            Restored("spectral", cross_weight_ratio=matrices, task_weight=mu)
            for matrices, mu in itertools.product(_MATRICES, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0))
        ),
    ),
    # From one small step to a walk more than twice as long as all of delta.
    Method(
        "natural",
        tuple(
            Restored("natural", task_weight=mu, steps=steps, step_size=size)
            for mu in (1.0, 10.0, 100.0)
            for steps, size in _WALKS
        ),
    ),
    Method(
        "spectral, natural",
        tuple(
            Restored("spectral+natural", task_weight=mu, steps=steps, step_size=size)
            for mu in (3.0, 10.0, 30.0)
            for steps, size in ((1, 0.3), (2, 0.3), (3, 0.1), (3, 0.3))
        ),
    ),
    Method(FINE_TUNING[0], _back("honesty")),
    Method(FINE_TUNING[1], _back("both")),
    # Weights at which spectral keeps most of the task, so that there is something left to lose.
    Method(
        "spectral, fine-tuning",
        tuple(
            FineTuned(on, rate, 5, Restored("spectral", task_weight=mu))
            for mu in (3.0, 10.0)
            for on in _ON
            for rate in (1e-5, 3e-5, 1e-4)
        ),
    ),
    # Its control: is it spectral that helps, or any step towards base before the training?
    Method(
        "interpolation, fine-tuning",
        tuple(
            FineTuned(on, rate, 5, Interpolated(share))
            for share in (0.15, 0.3)
            for on in _ON
            for rate in (1e-5, 3e-5, 1e-4)
        ),
    ),
)


def find_methods(
    names: Sequence[str] = (), methods: Sequence[Method] = METHODS
) -> tuple[Method, ...]:
    """The methods of some names, in the order of `methods`; all of them when none is given.

    A name may be written with hyphens for what stands between its words, `spectral-natural`.

    Raises:
        ConfigError: a name is unknown; the nearest known one is named.
    """
    known = {_plain(method.name): method for method in methods}
    for name in names:
        if _plain(name) not in known:
            nearest = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"there is no way of repairing named {name!r}; did you mean {nearest!r}? Known are "
                f"{', '.join(known)}"
            )
    wanted = {_plain(name) for name in names} or set(known)
    return tuple(method for plain, method in known.items() if plain in wanted)


def _plain(name: str) -> str:
    """A name without spaces and commas: the form that fits into a comma-separated list."""
    return name.replace(", ", "-").replace(" ", "-").strip("-").lower()
