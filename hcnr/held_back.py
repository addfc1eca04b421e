"""Task samples that are not measured, so that a task weight can be chosen by them."""

from hcnr.errors import DataError
from hcnr.examples import SampleSet


def held_back_count(measured: int) -> int:
    """How many samples to hold back beside so many measured ones: half as many, at least 8."""
    return max(8, measured // 2)


def hold_back(samples: SampleSet, measured: int) -> tuple[SampleSet, SampleSet]:
    """Part samples into those to measure and those to hold back.

    The first `measured` are measured, as without holding back, and what follows is held back. Where
    less follows than `held_back_count`, the last third of all samples is held back instead.

    Args:
        samples: at most `measured + held_back_count(measured)`.
        measured: samples to measure.

    Raises:
        DataError: there are too few for two parts.
    """
    count = len(samples)
    if count < 3:
        raise DataError(
            f"{samples.source} holds {count} samples, expected at least 3 to search a task weight, "
            "which holds a third of them back; add samples or give --task-weight a number"
        )
    if count < measured + held_back_count(measured):
        measured = count - count // 3
    return samples.part(0, measured), samples.part(measured, count)
