"""Sets of questions by name, by file, or as they are given."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hcnr.benchmarks.catalogue import HONESTY_SETS, TASK_SETS, files_of, load_benchmark
from hcnr.benchmarks.own_questions import load_questions
from hcnr.benchmarks.questions import Benchmark
from hcnr.benchmarks.sources import SourceReader
from hcnr.data.files import extensions
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.errors import ConfigError, DataError
from hcnr.hub import HUB

if TYPE_CHECKING:
    from typing_extensions import Self

BenchmarkLike = str | os.PathLike[str] | Benchmark | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class LoadedSets:
    """The sets of one measurement, by their names.

    Attributes:
        honesty: of answerable and unanswerable questions.
        tasks: of the fine-tuning task.
    """

    honesty: dict[str, Benchmark]
    tasks: dict[str, Benchmark]

    @property
    def all(self) -> dict[str, Benchmark]:
        """All sets, the honesty sets first."""
        return {**self.honesty, **self.tasks}

    @property
    def notes(self) -> list[str]:
        """What a reader of their numbers should know."""
        return [note for one in self.all.values() for note in one.notes]

    @classmethod
    def load(
        cls,
        benchmarks: Iterable[BenchmarkLike] | BenchmarkLike,
        tasks: Iterable[BenchmarkLike] | BenchmarkLike,
        data_root: str | Path | None,
        limit: int | None,
    ) -> "Self":
        """Load both kinds, see `load_sets`.

        Raises:
            ConfigError: a set is named under both.
            DataError: a set is unknown, cannot be read, or is named twice.
        """
        honesty = load_sets(benchmarks, data_root, limit, task=False)
        task = load_sets(tasks, data_root, limit, task=True)
        if both := honesty.keys() & task.keys():
            raise ConfigError(
                f"the set {min(both)} is named as benchmark and as task; name it under one of them"
            )
        return cls(honesty, task)


def load_sets(
    benchmarks: Iterable[BenchmarkLike] | BenchmarkLike,
    data_root: str | Path | None,
    limit: int | None,
    *,
    task: bool,
) -> dict[str, Benchmark]:
    """Load benchmarks by name, path or as they are, by their names.

    Args:
        benchmarks: names, or what `hcnr.benchmarks.own_questions.load_questions` takes, or
            `Benchmark`s (which are used whole).
        data_root: where the published sets lie.
        limit: questions of each set at most.
        task: whether they measure the task, for messages.

    Raises:
        DataError: a set is unknown, cannot be read, or is named twice.
    """
    single = isinstance(benchmarks, str | os.PathLike | Benchmark)
    # A data set of the `datasets` library is iterable too, over its records.
    single = single or type(benchmarks).__name__.endswith("Dataset")
    sources: list[Any] = [benchmarks] if single else list(cast(Iterable[Any], benchmarks))
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}, expected at least 1 question of each set")
    if published := [str(source) for source in sources if is_published(source)]:
        known = [name for name in published if name in HONESTY_SETS + TASK_SETS]
        # All that is missing at once, where every name is known.
        if known == published:
            SourceReader(data_root).check(files_of(known))
    sets: dict[str, Benchmark] = {}
    for source in sources:
        loaded = _load(source, data_root, limit, task)
        if loaded.name in sets:
            kind = "tasks" if task else "benchmarks"
            raise DataError(f"the set {loaded.name} is named twice under {kind}; name it once")
        sets[loaded.name] = loaded
    return sets


def _load(source: Any, data_root: str | Path | None, limit: int | None, task: bool) -> Benchmark:
    if isinstance(source, Benchmark):
        return source
    if not is_published(source):
        return load_questions(source, limit, task=task)
    return load_benchmark(str(source), data_root=data_root, limit=limit)


def is_published(source: Any) -> bool:
    """Whether a source names a set of the authors' files rather than questions of one's own."""
    return (
        isinstance(source, str)
        and source not in (STARTER, VALIDATION)
        and not source.startswith(HUB)
        and not source.lower().endswith(extensions())
        and os.sep not in source
        and not os.path.isdir(source)
    )
