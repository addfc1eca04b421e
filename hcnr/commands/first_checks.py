"""What can be said of a command line before anything heavy is imported: paths and names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hcnr.data.records import check_source
from hcnr.directories import ADAPTER, check_directory
from hcnr.errors import ConfigError, StatisticsError
from hcnr.hub import is_model_name, model_snapshot

__all__ = ["ADAPTER", "check_command_line", "check_directory", "named_pair"]


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
        checkpoints: directories, or models of the hub, which are downloaded here.
        data: files or data sets of samples.
        statistics: a file.
        questions: sets by name, or files.
        detector: by name.

    Raises:
        HcnrError: the first that cannot be.
    """
    for checkpoint in checkpoints:
        if checkpoint is None:
            continue
        if is_model_name(checkpoint):
            model_snapshot(checkpoint)
        else:
            check_directory(checkpoint.expanduser())
    for source in data:
        check_source(source)
    if statistics is not None and not statistics.expanduser().is_file():
        raise StatisticsError(f"the statistics {statistics} are no file; check the path")
    if questions := list(questions):
        from hcnr.benchmarks.catalogue import check_name
        from hcnr.benchmarks.loading import is_published

        for source in questions:
            if is_published(source):
                check_name(source)
            else:
                check_source(source)
    if detector is not None:
        from hcnr.detectors import check_detector

        check_detector(detector)


def named_pair(base: Path, tuned: Path | None) -> tuple[Path | None, Path]:
    """Tell BASE and TUNED apart on a command line; an adapter alone names its base itself.

    Raises:
        ConfigError: one model was named, and it is no adapter.
    """
    if tuned is not None:
        return base, tuned
    if base.expanduser().is_dir() and not (base.expanduser() / ADAPTER).is_file():
        raise ConfigError(
            f"one model is named, '{base}', and expected were BASE and TUNED, or an adapter alone, "
            "which names its base itself; name the other one"
        )
    return None, base
