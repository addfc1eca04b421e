"""The configuration of a sweep, beside those of its candidates."""

from pathlib import Path
from typing import Annotated, Any, TypedDict

from annotated_types import Ge, Le

from hcnr.config.configuration import Configuration
from hcnr.config.shared import (
    ACCURACY_DROP_WORDS,
    BATCH,
    DATA_ROOT,
    DETECTOR,
    JUDGING,
    LIMIT,
    MAX_ACCURACY_DROP,
    NEW_TOKENS,
)
from hcnr.settings import setting

__all__ = ["SweepConfig", "SweepSettings"]

SEARCH = "Search"


class SweepConfig(Configuration):
    """How candidates are asked and judged, and what is tried beside the grid.

    The grid is a `hcnr.Grid`; what it does not vary is a `hcnr.RestoreConfig`.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
    """

    limit: int | None = LIMIT
    data_root: Path | None = DATA_ROOT
    detector: str | None = DETECTOR
    batch_size: int = BATCH
    max_new_tokens: int = NEW_TOKENS
    coefficients: tuple[Annotated[float, Ge(0), Le(1)], ...] = setting(
        tuple(step / 10 for step in range(1, 10)),
        SEARCH,
        "Coefficients of the rival, plain interpolation: 0 tuned, 1 base; nothing for none.",
        more="Both ends are evaluated anyway.",
        metavar="NUMBERS",
        formerly=("interpolation",),
        expected="coefficients from 0 (tuned) to 1 (base)",
    )
    max_accuracy_drop: float = setting(
        MAX_ACCURACY_DROP,
        JUDGING,
        "Points of task accuracy that the recommended candidate may lose.",
        expected=ACCURACY_DROP_WORDS,
        formerly=("max_task_drop",),
        ge=0,
    )
    refine: bool = setting(
        True,
        SEARCH,
        "After the grid, also try up to six configurations between the best one and its "
        "neighbours.",
        more="See `Grid.near`.",
    )
    ablate: bool = setting(
        False,
        SEARCH,
        "Also make the paper's ablation table.",
        more="At the settings of `config`.",
    )


class SweepSettings(TypedDict, total=False):
    """The same for type checkers, as keyword arguments of `hcnr.sweep`."""

    limit: int | None
    data_root: str | Path | None
    detector: str | None
    batch_size: int
    max_new_tokens: int
    coefficients: Any
    max_accuracy_drop: float
    refine: bool
    ablate: bool
