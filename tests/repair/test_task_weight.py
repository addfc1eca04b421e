import math

import pytest

from hcnr.errors import ConfigError, DataError
from hcnr.repair.task_weight import (
    LARGEST,
    MOST_FORECASTS,
    MOST_TRIES,
    SMALLEST,
    forecast_task_weight,
    retention_of,
    search_task_weight,
)


def curve(half):
    """Retention that rises with mu and is 50 % at `half`."""
    return lambda mu: 100 * mu / (mu + half)


@pytest.mark.parametrize("half", [1e-4, 3e-3, 0.07, 1.0, 5.0, 80.0])
@pytest.mark.parametrize("drop", [2.0, 10.0, 30.0])
def test_the_smallest_weight_that_keeps_the_task(half, drop):
    exact = half * (100 - drop) / drop
    weight, tried = search_task_weight(curve(half), drop)
    if exact <= SMALLEST:
        assert weight == pytest.approx(SMALLEST)
    else:
        # Rounded up by less than an eighth of a decade.
        assert exact <= weight <= exact * 10**0.125 * 1.001
    assert len(tried) <= MOST_TRIES
    assert all(one.kept == (one.retention >= 100 - drop) for one in tried)
    assert weight in [one.task_weight for one in tried if one.kept]


def test_without_a_weight_that_is_enough_the_best_is_named():
    def worse(mu):
        return 60 + math.log10(mu)

    with pytest.raises(ConfigError, match=rf"up to {LARGEST:g} keeps 98 %.*is 64.0 % at 10000"):
        search_task_weight(worse, 2.0)


def test_retention_is_the_kept_share_of_the_gain():
    assert retention_of(4.0, 4.0, 2.0) == 0
    assert retention_of(2.0, 4.0, 2.0) == 100
    assert retention_of(2.5, 4.0, 2.0) == 75
    assert retention_of(5.0, 4.0, 2.0) == -50
    for tuned in (4.0, 4.5, math.nan):
        with pytest.raises(DataError, match="did not lower the loss"):
            retention_of(3.0, 4.0, tuned)


@pytest.mark.parametrize("half", [3e-3, 0.07, 1.0, 5.0, 80.0])
@pytest.mark.parametrize("size", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("drop", [2.0, 10.0])
def test_a_forecast_of_the_right_shape_needs_few_tries_whatever_its_size(half, size, drop):
    retention = curve(half)
    weight, tried = forecast_task_weight(retention, drop, lambda mu: size * (100 - retention(mu)))
    assert len(tried) <= 3
    lost = 100 - retention(weight)
    assert drop / 2 <= lost <= drop
    assert weight in [one.task_weight for one in tried if one.kept]


def test_a_forecast_of_the_wrong_shape_still_ends_with_a_weight_that_is_kept():
    for power in (0.3, 3.0):
        weight, tried = forecast_task_weight(
            curve(1.0), 2.0, lambda mu, power=power: 100 / (1 + mu**power)
        )
        assert 100 - curve(1.0)(weight) <= 2.0
        assert len(tried) <= MOST_FORECASTS + MOST_TRIES


def test_a_repair_that_gains_goes_on_down_and_never_below_the_smallest():
    asked = []

    def gains(mu):
        asked.append(mu)
        return 101.0

    weight, tried = forecast_task_weight(gains, 2.0, lambda mu: 50 / (1 + mu))
    assert weight == min(asked) >= SMALLEST
    assert all(one.kept for one in tried) and len(tried) <= MOST_FORECASTS


def test_models_that_cannot_be_asked_are_passed_by():
    def retention(mu):
        return -math.inf if mu < 30 else curve(0.5)(mu)

    weight, tried = forecast_task_weight(retention, 2.0, lambda mu: 50 / (1 + mu))
    assert weight >= 30 and tried[-1].retention >= 98


def test_no_weight_at_all_is_refused_after_a_forecast_too():
    with pytest.raises(ConfigError, match="no task weight up to"):
        forecast_task_weight(lambda mu: 50.0, 2.0, lambda mu: 50 / (1 + mu))
