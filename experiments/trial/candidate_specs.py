"""How a repaired model can be made: small values that say everything but the pair and its data."""

import dataclasses
import json
from typing import Any, Literal

from hcnr.config import RestoreConfig
from hcnr.kinds import Axis

_STEPS = ("task_weight", "steps", "step_size")
_NEURONS = ("axis", "in_weight_ratio", "priority")
_SHOWN = {
    "none": _NEURONS,
    "sum": _NEURONS,
    "joint": _NEURONS,
    "balanced": (*_NEURONS, "task_weight"),
    "spectral": ("task_weight",),
    "natural": _STEPS,
    "spectral+natural": _STEPS,
}
WHOLE_MATRIX_KINDS = ("spectral", "natural", "spectral+natural")
"""Kinds that work on whole matrices, so that neurons have no meaning."""

SHORT = {
    "coefficient": "c",
    "in_weight_ratio": "R_IW",
    "cross_weight_ratio": "R_CW",
    "task_weight": "mu",
    "step_size": "size",
    "block_size": "block",
}

Priority = Literal["kl", "honesty", "random"]
"""What neurons are ranked by: both terms, the paper's "without task", or nothing."""


@dataclasses.dataclass(frozen=True)
class Interpolated:
    """All weights `(1 - c) tuned + c base`."""

    coefficient: float

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        return {"made": "interpolated", "coefficient": self.coefficient}


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `hcnr.restore` makes; attributes are settings of `RestoreConfig`."""

    compensation: str
    axis: Axis = "output"
    in_weight_ratio: float = 0.5
    cross_weight_ratio: float = 1.0
    priority: Priority = "kl"
    task_weight: float = 1.0
    steps: int = 3
    step_size: float = 0.3
    fisher_at: Literal["tuned", "base"] = "tuned"
    block_size: int | None = None

    def config(self, samples: int, seed: int) -> RestoreConfig:
        """The configuration of a run, on the CPU, so that one world gives one table."""
        return RestoreConfig(
            **{**dataclasses.asdict(self), "device": "cpu", "samples": samples, "seed": seed}
        )

    def as_dict(self) -> dict[str, Any]:
        """What decides the result; settings that this kind ignores are left out."""
        shown = ("compensation", "cross_weight_ratio", *_SHOWN[self.compensation])
        if "priority" in shown:
            shown = (*shown, "fisher_at")
        if self.block_size is not None:
            shown = (*shown, "block_size")
        return {"made": "restored", **{name: getattr(self, name) for name in shown}}


@dataclasses.dataclass(frozen=True)
class Masked:
    """`spectral` written on part of the neurons alone, the others left as tuned."""

    task_weight: float
    neurons: Priority
    in_weight_ratio: float = 0.5

    @property
    def selecting(self) -> Restored:
        """The repair whose neurons these are."""
        return Restored("none", in_weight_ratio=self.in_weight_ratio, priority=self.neurons)

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        return {"made": "masked", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """A few epochs on the measured samples, from the tuned model or from what was made of it."""

    on: Literal["honesty", "both"]
    rate: float
    epochs: int
    after: Restored | Interpolated | None = None

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        content = {"made": "fine-tuned", "on": self.on, "rate": self.rate, "epochs": self.epochs}
        return content if self.after is None else {**content, "after": self.after.as_dict()}


@dataclasses.dataclass(frozen=True)
class Rait:
    """Refusal-aware instruction tuning: the tuned model trained on pool questions.

    It learns to answer the answerable ones and to refuse the others.
    """

    rate: float
    samples: int = 512
    epochs: int = 1

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        return {"made": "rait", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Preferred:
    """The tuned model trained on preferences between two responses to pool questions.

    Attributes:
        by: whose loss.
        rate: peak learning rate.
        beta: of DPO how little it may move away from the tuned model, of ORPO the weight of the
            odds ratio (its paper's lambda).
        samples: pairs.
        epochs: passes over them.
    """

    by: Literal["dpo", "orpo"]
    rate: float
    beta: float = 0.1
    samples: int = 256
    epochs: int = 1

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        settings = dataclasses.asdict(self)
        return {"made": settings.pop("by"), **settings}


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """The fine-tuning again, from base, with the honesty samples among the task questions.

    Attributes:
        repeats: how often each honesty sample stands among the questions of one epoch.
    """

    repeats: int = 1

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        return {"made": "rehearsed", "repeats": self.repeats}


@dataclasses.dataclass(frozen=True)
class Prompted:
    """The tuned model as it is, told before every question what to do."""

    instruction: str

    def as_dict(self) -> dict[str, Any]:
        """What decides the result."""
        return {"made": "prompted", "instruction": self.instruction}


Trained = Rait | Preferred | Rehearsed
"""Baselines that train on more than the samples of a repair."""
CandidateSpec = Interpolated | Restored | Masked | FineTuned | Trained | Prompted


@dataclasses.dataclass(frozen=True)
class Samples:
    """Which of a world's samples a repair is given.

    Attributes:
        count: The first ones of each set.
        honesty: `mixed` takes refusals and answers in turn, `refusals` refusals only.
    """

    count: int = 128
    honesty: Literal["mixed", "refusals"] = "mixed"


def candidate_key(spec: CandidateSpec, samples: Samples) -> str:
    """Text that is equal for equal candidates of one world and seed."""
    return json.dumps({**spec.as_dict(), **dataclasses.asdict(samples)}, sort_keys=True)


def brief(settings: dict[str, Any]) -> str:
    """Settings in a few words, for a table: `mu 10, R_CW 1`."""
    words = []
    for name, value in settings.items():
        if name in ("made", "compensation") or (name, value) == ("fisher_at", "tuned"):
            continue
        if name == "after":
            words.insert(0, f"after {value.get('compensation', value['made'])} ({brief(value)})")
        else:
            text = f"{value:g}" if isinstance(value, int | float) else str(value)
            words.append(f"{SHORT.get(name, name)} {text}")
    return ", ".join(words)
