"""The configurations of a sweep."""

import difflib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError
from hcnr.kinds import KINDS, kind_names, plain_name


def grid_kinds() -> tuple[str, ...]:
    """What a grid may hold; interpolation is the rival of all of them, and has its own curve."""
    # Those of packages mend neurons, and are not loaded to be listed.
    return tuple(n for n in kind_names() if n not in KINDS or KINDS[n].scope != "tensors")


def kind_hint(name: str) -> str:
    """What may have been meant by a kind that a grid does not hold."""
    tensors = [kind for kind, about in KINDS.items() if about.scope == "tensors"]
    if difflib.get_close_matches(name.lower(), tensors, 1, cutoff=0.8):
        return (
            "plain interpolation is tried beside every kind without being named here, and hcnr "
            "restore --compensation interpolate writes one"
        )
    close = difflib.get_close_matches(name, grid_kinds(), 1, cutoff=0)[0]
    return f"did you mean {close!r}?"


TASK_WEIGHTS = (1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Grid:
    """Values to combine, each with each; a value given twice counts once.

    The default has 42 configurations: all matrices, and the paper's share of them; every kind but
    natural steps, which are dear.

    Attributes:
        in_weight: in-weight ratios, above 0 and at most 1.
        cross_weight: cross-weight ratios, above 0 and at most 1.
        compensation: kinds of compensation.
        task_weight: mu of method.md (9) and (10), at least 0; `none`, `sum` and `joint` have none.

    Raises:
        ConfigError: a list is empty, or holds a value that does not fit.
    """

    in_weight: tuple[float, ...] = (0.3, 0.5, 0.7)
    cross_weight: tuple[float, ...] = (0.4, 1.0)
    compensation: tuple[str, ...] = ("none", "sum", "joint", "balanced", "spectral")
    task_weight: tuple[float, ...] = TASK_WEIGHTS

    def __post_init__(self) -> None:
        for name in ("in_weight", "cross_weight"):
            values = _numbers(name, getattr(self, name))
            for value in values:
                if not 0 < value <= 1:
                    raise ConfigError(
                        f"{name} holds {value:g}, expected ratios above 0 and at most 1; correct "
                        "this value"
                    )
            # Ascending, so that each selection holds the one before it.
            object.__setattr__(self, name, tuple(sorted(values)))
        weights = _numbers("task_weight", self.task_weight)
        for value in weights:
            if not 0 <= value < math.inf:
                raise ConfigError(
                    f"task_weight holds {value:g}, expected finite numbers of at least 0; correct "
                    "this value"
                )
        object.__setattr__(self, "task_weight", weights)
        kinds = _listed("compensation", self.compensation)
        kinds = tuple(plain_name(kind) if isinstance(kind, str) else kind for kind in kinds)
        known = grid_kinds()
        for kind in kinds:
            if kind not in known:
                raise ConfigError(
                    f"compensation holds {kind!r}, expected some of {', '.join(known)}; "
                    f"{kind_hint(str(kind))}"
                )
        object.__setattr__(self, "compensation", kinds)
        weighing = any(RestoreConfig().replace(compensation=kind).weighs_task for kind in kinds)
        if not weighing and weights != TASK_WEIGHTS:
            listed = ", ".join(f"{weight:g}" for weight in weights)
            raise ConfigError(
                f"task_weight lists {listed}, but of all kinds only balanced, spectral and natural "
                "have a task weight; add one to compensation or leave task_weight out"
            )

    def configs(self, config: RestoreConfig) -> list[RestoreConfig]:
        """All configurations, those together that differ in the cross-weight ratio only.

        Args:
            config: everything that the grid does not vary. A task weight of `auto` is not searched
                for: the grid has the numbers.
        """
        kinds = [config.replace(compensation=kind) for kind in self.compensation]
        return [
            kind.replace(
                in_weight_ratio=in_weight,
                cross_weight_ratio=cross_weight,
                task_weight=task_weight,
            )
            for kind in kinds
            for task_weight in (self.task_weight if kind.weighs_task else (config.task_weight,))
            for in_weight in ((1.0,) if kind.bases else self.in_weight)
            for cross_weight in self.cross_weight
        ]

    def near(self, config: RestoreConfig) -> list[RestoreConfig]:
        """Configurations between one of this grid and its neighbours, one setting changed each.

        A task weight moves half a step along a logarithmic scale, also beyond the ends of the grid;
        a ratio moves half way to the next one of the grid, and never beyond its ends, so that what
        was measured for the grid serves these too. A setting with one value stays.
        """
        nearby = []
        if config.weighs_task:
            nearby += [
                config.replace(task_weight=weight)
                for weight in _between([w for w in self.task_weight if w > 0], config.mu)
            ]
        for name in ("in_weight", "cross_weight"):
            if name == "in_weight" and config.bases:
                continue
            setting = f"{name}_ratio"
            value, values = getattr(config, setting), getattr(self, name)
            ends = [v for v in values if v < value][-1:] + [v for v in values if v > value][:1]
            # Rounded, so that the option that repeats it is short and exact.
            nearby += [config.replace(**{setting: round((value + end) / 2, 6)}) for end in ends]
        return [one for one in nearby if one not in self.configs(config)]


def settings_of(config: RestoreConfig) -> dict[str, Any]:
    """The settings in which candidates differ, under the names that `RestoreConfig` takes."""
    names = ["axis", "in_weight_ratio", "cross_weight_ratio", "compensation"]
    if config.bases:
        names.remove("in_weight_ratio")
    if config.weighs_task:
        names.append("task_weight")
    if config.priority != "kl":
        names.append("priority")
    return {name: getattr(config, name) for name in names}


def read_names(text: str) -> tuple[str, ...]:
    """Parts of a text between commas; none of an empty text."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_numbers(option: str, text: str) -> tuple[float, ...]:
    """The same as numbers.

    Raises:
        ConfigError: a part is none; `option` is named.
    """
    try:
        return tuple(float(part) for part in read_names(text))
    except ValueError:
        raise ConfigError(
            f"{option} is {text!r}, expected numbers separated by commas, such as 0.3,0.5; correct "
            "this option"
        ) from None


def _between(weights: Sequence[float], weight: float) -> list[float]:
    """Half a step to both sides of a weight, each rounded to two digits."""
    ordered = sorted(weights)
    if weight not in ordered or len(ordered) < 2:
        return []
    index = ordered.index(weight)
    steps = [math.sqrt(high / low) for low, high in itertools.pairwise(ordered)]
    below, above = steps[max(index - 1, 0)], steps[min(index, len(steps) - 1)]
    return [float(f"{value:.2g}") for value in (weight / below, weight * above)]


def _listed(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """`values` without repetition; refused where there are none."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} is {values!r}, expected a list of values; put it into brackets")
    values = tuple(dict.fromkeys(values))
    if not values:
        raise ConfigError(f"{name} lists no value, expected at least one; leave it out or add one")
    return values


def _numbers(name: str, values: Iterable[Any]) -> tuple[float, ...]:
    for value in (listed := _listed(name, values)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} holds {value!r}, expected numbers; correct this value")
    return tuple(float(value) for value in listed)
