import math

import pytest

from hcnr.errors import ConfigError, DataError
from hcnr.task_weight import LARGEST, MOST_TRIES, SMALLEST, retention_of, search_task_weight


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
