import numpy as np
import pytest

from hcnr import stats as intervals
from hcnr.stats import percentile_interval, resample


def test_draws_are_whole_samples_and_repeat():
    indicators = np.eye(5, dtype=np.float32)
    first = resample(indicators, key="a", resamples=300)
    assert first.shape == (300, 5)
    np.testing.assert_array_equal(first.sum(axis=1), 5)
    np.testing.assert_array_equal(first, resample(indicators, key="a", resamples=300))
    assert not np.array_equal(first, resample(indicators, key="b", resamples=300))
    assert not np.array_equal(first, resample(indicators, key="a", resamples=300, seed=1))


def test_pieces_do_not_change_the_draw(monkeypatch):
    indicators = np.random.default_rng(0).integers(0, 2, (7, 3)).astype(np.float32)
    whole = resample(indicators, key="a", resamples=50)
    monkeypatch.setattr(intervals, "_CHUNK", 21)
    np.testing.assert_array_equal(whole, resample(indicators, key="a", resamples=50))


def test_the_draw_is_shared_by_everything_counted():
    column = np.array([1, 0, 1, 1], dtype=np.float32)
    draws = resample(np.stack([column, 1 - column, column], axis=1), key="a", resamples=200)
    np.testing.assert_array_equal(draws[:, 0], draws[:, 2])
    np.testing.assert_array_equal(draws[:, 0] + draws[:, 1], 4)


def test_a_share_has_the_binomial_spread():
    hits = (np.arange(400) < 120).astype(np.float32)[:, None]
    shares = resample(hits, key="a", resamples=4000)[:, 0] / 400
    assert shares.mean() == pytest.approx(0.3, abs=0.002)
    assert shares.std() == pytest.approx((0.3 * 0.7 / 400) ** 0.5, rel=0.05)
    low, high = percentile_interval(shares) or (0, 0)
    assert (low, high) == pytest.approx((0.255, 0.345), abs=0.006)


def test_percentiles_and_what_is_undefined():
    values = np.array([np.nan, *range(101), np.nan], dtype=float)
    assert percentile_interval(values) == pytest.approx([2.5, 97.5])
    assert percentile_interval(np.full(3, np.nan)) is None
