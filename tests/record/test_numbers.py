from hcnr.record.numbers import (
    NONE,
    fixed,
    short,
    signed,
    with_interval,
    without_negative_zero,
)


def test_no_negative_zeros():
    texts = [without_negative_zero(text) for text in ("-1.5", "1.5", "-0.0", "-0.05", "1e-6")]
    assert texts == ["-1.5", "1.5", "0.0", "-0.05", "1e-6"]


def test_numbers_and_their_absence():
    assert [fixed(value) for value in (72.84, -0.04, None)] == ["72.8", "0.0", NONE]
    assert [signed(value) for value in (30.44, -0.35, 0.04, None)] == [
        "+30.4", "-0.3", "0.0", NONE
    ]  # fmt: skip
    assert [short(value) for value in (0.0123456, 1e-9, None)] == ["0.0123", "1e-09", NONE]


def test_intervals():
    assert with_interval(68.3, (66.14, 70.2)) == "68.3 (66.1 to 70.2)"
    assert with_interval(68.3, None) == "68.3"
    assert with_interval(None, (1, 2)) == NONE
    assert with_interval(-1.0, (-2.0, 3.0), "+.1f") == "-1.0 (-2.0 to +3.0)"
