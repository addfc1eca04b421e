import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcnr.report.drawing.scales import Scale, fitted, log_ticks, ticks


def test_ticks_by_hand():
    assert [label for _, label in ticks(27.2, 84.1, 7)] == ["30", "40", "50", "60", "70", "80"]
    labels = ["-0.10", "-0.05", "0.00", "0.05", "0.10"]
    assert ticks(-0.1, 0.1, 4) == list(zip((-0.1, -0.05, 0.0, 0.05, 0.1), labels, strict=True))


def test_one_label_alone_is_no_scale():
    """Refusal deltas from 17.7 to 88.5 on a phone."""
    assert [label for _, label in ticks(14.2, 92.0, 3)] == ["20", "40", "60", "80"]


def test_log_ticks_by_hand():
    assert log_ticks(5e-9, 3e-5, 8) == [
        (10.0**e, label) for e, label in ((-8, "10⁻⁸"), (-7, "10⁻⁷"), (-6, "10⁻⁶"), (-5, "10⁻⁵"))
    ]
    assert [label for _, label in log_ticks(15, 60, 8)] == ["20", "50"]
    assert [label for _, label in log_ticks(1, 1e9, 4)] == ["1", "10³", "10⁶", "10⁹"]


def test_a_log_axis_between_the_usual_numbers_has_those_of_a_straight_one():
    assert [label for _, label in log_ticks(3.1, 4.2, 3)] == ["3.5", "4"]
    assert fitted([3.6, 3.7], 0, 1, log=True).ticks(5)


@pytest.mark.parametrize("value", [-2.5, 0.0, 3.0])
def test_an_axis_whose_ends_meet(value):
    assert [place for place, _ in ticks(value, value, 5)] == [value]


def test_a_log_axis_leaves_out_what_it_has_no_place_for():
    scale = fitted([-1.0, 0.0, 10.0, 20.0], 0, 1, log=True)
    assert (scale.low, scale(0.0)) == (10 / 1.3, 0)
    assert log_ticks(3.0, 3.0, 5) == [(3.0, "3")]


@given(st.floats(-1000, 1000), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_within_evenly_spaced_and_few(low, width, most):
    found = [value for value, _ in ticks(low, low + width, most)]
    slack = 1e-6 * width
    assert len(found) <= most + 2
    assert all(low - slack <= value <= low + width + slack for value in found)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert steps == pytest.approx(steps[:1] * len(steps))


def test_a_scale_keeps_proportions_and_stays_within():
    scale = Scale(10, 20, 100, 300)
    assert [scale(value) for value in (10, 15, 20, 5, 25)] == [100, 200, 300, 100, 300]
    log = Scale(1, 100, 0, 10, log=True)
    assert log(10) == pytest.approx(5)


@given(st.lists(st.floats(-1e12, 1e12), max_size=5))
def test_fitted_always_has_room_for_all_values(values):
    scale = fitted(values, 0, 1)
    assert scale.low < scale.high
    assert all(scale.low <= value <= scale.high for value in values)
    assert math.isfinite(scale(0.0))


def test_all_zeros_get_an_ordinary_axis():
    assert [label for _, label in fitted([0.0], 0, 1).ticks(3)] == [
        "-0.5",
        "0.0",
        "0.5",
    ]


def test_bars_begin_at_zero():
    assert fitted([5.0, 7.0], 0, 1, zero=True).low == 0
    assert fitted([0.0], 0, 1, zero=True).high > 0
