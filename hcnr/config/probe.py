"""The configuration of linear probes, beside how their samples are read and measured."""

from typing import TypedDict

from hcnr.config.configuration import Configuration
from hcnr.config.shared import LARGEST_SEED, RESAMPLES
from hcnr.settings import setting

__all__ = ["ProbeConfig", "ProbeSettings"]

PROBES = "Probes"


class ProbeConfig(Configuration):
    """How probes are trained and judged.

    Samples, lengths, template, device, dtype and attention are those of a `hcnr.RestoreConfig`.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
    """

    require: float | None = setting(
        None,
        PROBES,
        "Exit with 1 when the best transfer AUROC is below this, such as 0.8.",
        more="`ProbeReport.met` says whether it is.",
        ge=0,
        le=1,
    )
    folds: int = setting(5, PROBES, "Parts that are held out in turn.", ge=2, le=LARGEST_SEED)
    split_seed: int = setting(0, PROBES, "Seed of the folds and intervals.", ge=0, le=LARGEST_SEED)
    resamples: int = setting(
        RESAMPLES,
        PROBES,
        "Of the bootstrap of the 95 % intervals, over samples and within each class.",
        formerly=("draws",),
        option=False,
        ge=100,
        le=LARGEST_SEED,
    )
    detector: str = setting(
        "unknownbench_keywords",
        PROBES,
        "Refusal detector, for records without the field answerable.",
        expected="the name of a refusal detector",
    )


class ProbeSettings(TypedDict, total=False):
    """The same for type checkers, as keyword arguments of `hcnr.probe`."""

    require: float | None
    folds: int
    split_seed: int
    resamples: int
    detector: str
