"""Samples that are not measured: a task weight is chosen, and a repair judged, by them."""

from hcnr.data.samples import SampleSet
from hcnr.errors import DataError

FEW = 16
"""Held-back samples below which a chosen weight says little."""
FEWEST = 8
"""Held-back samples below which a repair is judged by the measured ones instead."""


def held_back_count(measured: int) -> int:
    """How many samples to hold back beside measured ones: half as many, at least `FEWEST`."""
    return max(FEWEST, measured // 2)


def measured_count(available: int, wanted: int) -> int:
    """How many samples to measure so that some are left to hold back.

    All that are wanted if `held_back_count` samples follow them, else two thirds of what there is.

    Args:
        available: samples of the task.
        wanted: samples to measure otherwise.
    """
    if available >= wanted + held_back_count(wanted):
        return wanted
    return min(wanted, available - available // 3)


def hold_back(samples: SampleSet, measured: int) -> tuple[SampleSet, SampleSet]:
    """Part samples into the first, to measure, and those that follow, to hold back.

    Args:
        samples: of the task, more than are measured.
        measured: samples to measure, of `measured_count`.

    Raises:
        DataError: none is left.
    """
    count = len(samples)
    if count < 3 or count <= measured:
        raise DataError(
            f"{samples.source} holds {count} samples, expected at least 3 and more than the "
            f"{measured} that are measured: a search for a task weight or a coefficient holds some "
            "back; add samples, measure fewer with --samples, or give --task-weight (with "
            "--compensation interpolate: --coefficient) a number"
        )
    rest = min(count, measured + held_back_count(measured))
    return samples.part(0, measured), samples.part(measured, rest)
