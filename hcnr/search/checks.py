"""What a sweep refuses before anything is measured, and what it says of its questions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hcnr.checkpoint.kept_work import KEY, SUFFIX
from hcnr.config import RestoreConfig
from hcnr.data.samples import load_samples
from hcnr.directories import check_outside, make_directory
from hcnr.errors import ConfigError, OutputError
from hcnr.kinds import Basis
from hcnr.models.pair import Pair
from hcnr.search.validation import Validation

FILE = "sweep.json"
"""What a sweep writes into its directory."""


def check_sources(
    statistics: Any, honesty: Any, task: Any, evaluate: Any, sets: Sequence[Any], both_axes: bool
) -> None:
    """One way to measure and one way to evaluate."""
    if both_axes and (honesty is None or task is None):
        raise ConfigError(
            "spectral and natural measure curvature that no statistics hold, so a sweep with them "
            "needs both data sets; give --honesty and --task, beside --statistics or without, or "
            "leave both kinds out of --compensation"
        )
    if statistics is not None and not both_axes and not (honesty is None and task is None):
        raise ConfigError(
            "both statistics and data to measure on were given; leave the data out to use the "
            "statistics, or the statistics to measure anew"
        )
    if statistics is None and (honesty is None or task is None):
        raise ConfigError(
            "a sweep needs statistics, or both honesty and task data to measure on; give "
            "--statistics, or --honesty and --task"
        )
    if (evaluate is None) == (not sets):
        raise ConfigError(
            "a sweep needs one way to score its candidates, a function or sets of questions; give "
            "either evaluate, or --validation, --benchmarks and --tasks"
        )


def check_dtype(config: RestoreConfig, kinds: Sequence[Basis]) -> None:
    """Refuse a dtype that candidates are not made in."""
    if "natural" in kinds and config.dtype != "auto":
        raise ConfigError(
            f"dtype is {config.dtype!r}, but natural measures the candidates themselves, which a "
            "sweep makes in the dtype of tuned; leave --dtype at auto or natural out"
        )


def check_whole(config: RestoreConfig) -> None:
    """Refuse a model that is not whole in memory, where every candidate is put into it."""
    if config.streams:
        raise ConfigError(
            f"device_map is {config.device_map!r}, and a sweep puts every candidate into a model "
            "in memory; leave device_map out"
        )


def destination(out: Path, pair: Pair, overwrite: bool) -> Path:
    """The file to write, its directory made."""
    file = out / FILE
    check_outside(file, [*pair.base.read_paths, *pair.tuned.read_paths])
    if file.exists() and not overwrite and not _is_unfinished(file):
        raise OutputError(f"{file} exists already; choose another --out or pass --overwrite")
    make_directory(out)
    return file


def _is_unfinished(file: Path) -> bool:
    """Whether a sweep was stopped that left what the same one goes on from."""
    if not (file.with_name(file.name + SUFFIX) / KEY).is_file():
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("complete") is False


def repeated_questions(
    evaluate: Callable[[Any], Any], honesty: Any, task: Any, config: RestoreConfig
) -> list[str]:
    """A message where validation questions are among the samples that will be measured."""
    if honesty is None or task is None or not isinstance(evaluate, Validation):
        return []
    measured = [
        sample.prompt
        for source in (honesty, task)
        for sample in load_samples(
            source, limit=config.samples, shuffle_seed=config.shuffle_seed
        ).samples
    ]
    count = evaluate.repeated(measured)
    if not count:
        return []
    return [
        f"{count} of the validation questions are among the measured samples: what is chosen on "
        "measured questions is not measured by them"
    ]
