"""The configurations of a sweep: what is tried, and what lies near the best."""

from typing import Any

import pytest

from hcnr.errors import ConfigError
from hcnr.search.grid import Grid
from pairs import config


def test_the_grid_keeps_cross_weights_together_and_ascending():
    grid = Grid((0.7, 0.3, 0.7), (0.6, 0.2), ("sum", "balanced"), (5.0, 1.0))
    found = [
        (c.compensation, c.task_weight, c.in_weight_ratio, c.cross_weight_ratio)
        for c in grid.configs(config())
    ]
    assert found == [
        (kind, weight, i, c)
        for kind, weight in (("sum", 1.0), ("balanced", 5.0), ("balanced", 1.0))
        for i in (0.3, 0.7)
        for c in (0.2, 0.6)
    ]


def near(grid: Grid, **settings: Any) -> list[tuple[Any, ...]]:
    """What differs from the best: task weight, in-weight and cross-weight ratio of each."""
    best = config(**settings)
    assert best in grid.configs(config())
    return [(c.task_weight, c.in_weight_ratio, c.cross_weight_ratio) for c in grid.near(best)]


def test_near_the_best_is_half_a_step_in_each_setting():
    grid = Grid((0.3, 0.5, 0.9), (0.4, 1.0), ("sum", "balanced", "spectral"), (1.0, 100.0, 10.0))
    best: dict[str, Any] = {"compensation": "balanced", "cross_weight_ratio": 0.4}
    assert near(grid, **best, in_weight_ratio=0.5, task_weight=10.0) == [
        (3.2, 0.5, 0.4), (32.0, 0.5, 0.4), (10.0, 0.4, 0.4), (10.0, 0.7, 0.4), (10.0, 0.5, 0.7),
    ]  # fmt: skip
    # Ratios stay within the grid, task weights go beyond its ends.
    assert near(grid, **best, in_weight_ratio=0.9, task_weight=100.0) == [
        (32.0, 0.9, 0.4), (320.0, 0.9, 0.4), (100.0, 0.7, 0.4), (100.0, 0.9, 0.7),
    ]  # fmt: skip
    # Whole matrices have no in-weight ratio, and sum has no task weight.
    best = {"compensation": "spectral", "cross_weight_ratio": 1.0, "in_weight_ratio": 1.0}
    assert near(grid, **best, task_weight=1.0) == [(0.32, 1, 1), (3.2, 1, 1), (1.0, 1, 0.7)]
    best = {"compensation": "sum", "cross_weight_ratio": 1.0, "in_weight_ratio": 0.3}
    assert near(grid, **best) == [(1.0, 0.4, 1.0), (1.0, 0.3, 0.7)]


def test_near_the_best_there_is_nothing_where_the_grid_has_one_value():
    grid = Grid((0.5,), (1.0,), ("spectral",), (0.0, 3.0))
    assert near(grid, compensation="spectral", cross_weight_ratio=1.0, in_weight_ratio=1.0,
                task_weight=3.0) == []  # fmt: skip
    assert near(grid, compensation="spectral", cross_weight_ratio=1.0, in_weight_ratio=1.0,
                task_weight=0.0) == []  # fmt: skip


def test_the_default_grid_has_all_matrices_and_every_kind_but_natural():
    assert Grid().compensation == ("none", "sum", "joint", "balanced", "spectral")
    configs = Grid().configs(config())
    assert len(configs) == 3 * 6 + 3 * 6 + 3 * 2 == len(set(configs))
    assert sum(c.cross_weight_ratio == 1.0 for c in configs) == len(configs) / 2
    assert all(len(Grid().near(one)) <= 6 for one in configs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"in_weight": ()}, "in_weight lists no value, expected at least one"),
        ({"compensation": ()}, "compensation lists no value"),
        ({"task_weight": []}, "task_weight lists no value"),
        ({"in_weight": (0.0,)}, "in_weight holds 0, expected ratios above 0 and at most 1"),
        ({"cross_weight": (0.5, 1.2)}, "cross_weight holds 1.2, expected ratios above 0"),
        ({"cross_weight": (float("nan"),)}, "cross_weight holds nan"),
        ({"in_weight": ("much",)}, "in_weight holds 'much', expected numbers"),
        ({"in_weight": 0.5}, "in_weight is 0.5, expected a list of values"),
        ({"task_weight": (-1.0,)}, "task_weight holds -1, expected finite numbers"),
        ({"task_weight": (float("inf"),)}, "task_weight holds inf"),
        ({"compensation": ("summ",)}, r"compensation holds 'summ'.* did you mean 'sum'\?"),
        ({"compensation": ("sum",), "task_weight": (3.0,)}, "but of all kinds only balanced"),
        ({"compensation": ("natural+spectral",)}, "did you mean 'spectral'"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Grid(**values)
