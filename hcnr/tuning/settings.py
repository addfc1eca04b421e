"""How a comparison is trained, and whether what trains it is installed."""

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

from hcnr.errors import ConfigError, ModelError

RATE, LORA_RATE = 1e-5, 2e-4
"""Usual rates for all weights of a language model, and for adapters."""


@dataclass(frozen=True)
class TuneSettings:
    """How to train.

    Attributes:
        rate: the learning rate at its peak; None takes 1e-5, and 2e-4 with `lora`.
        epochs: passes over the samples.
        lora: rank of an adapter on every linear layer, which is merged at the end; None trains all
            weights.
        batch_size: samples of a step.
        samples: of each data set, the first ones, as in a restoration.
        seed: of order, dropout and adapter.
        max_length: tokens kept of a sample.
        chat_template: auto uses the tokenizer's if it has one; or never.

    Raises:
        ConfigError: one is out of range.
    """

    rate: float | None = None
    epochs: float = 3.0
    lora: int | None = None
    batch_size: int = 8
    samples: int = 128
    seed: int = 0
    max_length: int = 1024
    chat_template: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("samples", 1), ("seed", 0), ("max_length", 2)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} is {value}, expected at least {least}")
        if self.lora is not None and self.lora < 1:
            raise ConfigError(f"lora is {self.lora}, expected a rank of at least 1")
        for name in ("rate", "epochs"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} is {value}, expected a number above 0")

    @property
    def learning_rate(self) -> float:
        """The rate as a number."""
        if self.rate is not None:
            return self.rate
        return RATE if self.lora is None else LORA_RATE

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {**asdict(self), "rate": self.learning_rate}


def check_installed(settings: TuneSettings) -> None:
    """Raise ModelError where a package that trains is missing."""
    wanted = ["trl", "datasets", *(["peft"] if settings.lora is not None else [])]
    # A folder of that name in the working directory is found too, without an origin.
    specs = {name: importlib.util.find_spec(name) for name in wanted}
    if missing := [name for name, spec in specs.items() if spec is None or spec.origin is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise ModelError(
            f"a comparison is trained by {' and '.join(wanted)}, and {' and '.join(missing)} "
            f"{verb} not installed; run pip install 'hcnr[tune]'"
        )
