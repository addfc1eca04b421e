import pytest

from hcnr.data.held_back import held_back_count, hold_back, measured_count
from hcnr.data.samples import load_samples
from hcnr.errors import DataError


def samples(count, limit):
    records = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(count)]
    return load_samples(records, limit=limit)


@pytest.mark.parametrize(
    ("available", "wanted", "measured", "held"),
    [(400, 128, 128, 64), (192, 128, 128, 64), (191, 128, 128, 63), (150, 128, 100, 50),
     (128, 128, 86, 42), (96, 128, 64, 32), (11, 4, 4, 7), (3, 8, 2, 1)],
)  # fmt: skip
def test_what_follows_is_held_back_or_a_third(available, wanted, measured, held):
    count = measured_count(available, wanted)
    assert count == measured
    chosen = samples(available, count + held_back_count(count))
    first, rest = hold_back(chosen, count)
    assert (len(first), len(rest)) == (measured, held)
    assert [*first.samples, *rest.samples] == [*chosen.samples[: measured + held]]
    # What is measured is what would be measured without holding back.
    assert first.sha256 == samples(available, measured).sha256
    assert rest.sha256 != first.sha256


def test_two_samples_are_too_few():
    with pytest.raises(DataError, match="holds 2 samples, expected at least 3"):
        hold_back(samples(2, 8), measured_count(2, 8))
    with pytest.raises(DataError, match="more than the 8 that are measured"):
        hold_back(samples(8, 99), 8)
    assert held_back_count(4) == 8 and held_back_count(128) == 64
