"""What can be said of a command line before anything heavy is imported: paths and names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hcnr.errors import CheckpointError, StatisticsError
from hcnr.records import check_source

__all__ = ["check_command_line", "check_directory"]


def check_command_line(
    *,
    checkpoints: Iterable[Path | None] = (),
    data: Iterable[str | None] = (),
    statistics: Path | None = None,
    questions: Iterable[Any] = (),
    detector: str | None = None,
) -> None:
    """Refuse what names nothing, in the words of whoever would find out later.

    Args:
        checkpoints: directories.
        data: files or data sets of samples.
        statistics: a file.
        questions: sets by name, or files.
        detector: by name.

    Raises:
        HcnrError: the first that cannot be.
    """
    for place in checkpoints:
        if place is not None:
            check_directory(place)
    for source in data:
        check_source(source)
    if statistics is not None and not statistics.is_file():
        raise StatisticsError(f"the statistics {statistics} are no file; check the path")
    if questions := list(questions):
        from hcnr.evaluate.benchmarks import check_name
        from hcnr.evaluate.panel import is_published

        for source in questions:
            if is_published(source):
                check_name(source)
            else:
                check_source(source)
    if detector is not None:
        from hcnr.evaluate.detectors import check_detector

        check_detector(detector)


def check_directory(directory: Path) -> None:
    """Raise CheckpointError unless a checkpoint's directory exists."""
    if not directory.exists():
        raise CheckpointError(
            f"The checkpoint '{directory}' does not exist: name a local directory (a model of the "
            "Hugging Face hub comes with `hf download NAME --local-dir DIR`)."
        )
    if not directory.is_dir():
        raise CheckpointError(
            f"The checkpoint '{directory}' is a file: name the directory that holds it and its "
            "config.json."
        )
