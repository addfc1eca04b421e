import pytest

from hcnr.errors import DataError
from hcnr.examples import load_samples
from hcnr.held_back import held_back_count, hold_back


def samples(count, limit):
    records = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(count)]
    return load_samples(records, limit=limit)


@pytest.mark.parametrize(
    ("available", "measured", "kept"), [(400, 128, 128), (192, 128, 128), (191, 128, 128),
                                        (130, 128, 87), (96, 128, 64), (3, 8, 2)],
)  # fmt: skip
def test_what_follows_is_held_back_or_a_third(available, measured, kept):
    limit = measured + held_back_count(measured)
    chosen = samples(available, limit)
    if available == 191:
        kept = 191 - 191 // 3
    first, rest = hold_back(chosen, measured)
    assert len(first) == kept
    assert [*first.samples, *rest.samples] == [*chosen.samples]
    assert len(rest) >= 1
    # What is measured is what would be measured without holding back.
    assert first.sha256 == samples(available, kept).sha256
    assert rest.sha256 != first.sha256


def test_two_samples_are_too_few():
    with pytest.raises(DataError, match="holds 2 samples, expected at least 3"):
        hold_back(samples(2, 8), 8)
    assert held_back_count(4) == 8 and held_back_count(128) == 64
