"""What a run measures on: both data sets, read, tokenised and described."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from hcnr.config import RestoreConfig
from hcnr.errors import DataError, StatisticsError
from hcnr.examples import Sample, load_samples
from hcnr.held_back import held_back_count, hold_back
from hcnr.model import open_tokenizer
from hcnr.pair import Pair
from hcnr.stages import Stages
from hcnr.statistics import Statistics
from hcnr.tokens import TokenizedSet, tokenize

Data = str | Path | Iterable[Mapping[str, Any] | Sample]


class MeasuringData(NamedTuple):
    """What a run measures on.

    Attributes:
        sets: tokenised samples: `honesty`, `task`, and `held_back` ones of the task.
        facts: of `honesty` and `task`, for the report.
    """

    sets: dict[str, TokenizedSet]
    facts: dict[str, dict[str, Any]]


def read_data(
    pair: Pair,
    honesty: Data | None,
    task: Data | None,
    config: RestoreConfig,
    tokenizer: Any,
    stages: Stages,
) -> MeasuringData:
    """Tokenise both data sets, and task samples held back where a task weight is searched for.

    Raises:
        DataError: a set is missing or cannot be used, or both are the same.
    """
    with stages.stage("read the data"):
        opened = pair.tuned.tokenizer() if tokenizer is None else open_tokenizer(tokenizer)
        sets, facts = {}, {}
        for name, source in (("honesty", honesty), ("task", task)):
            if source is None:
                raise DataError(
                    f"no {name} data was given; pass --{name} FILE, or --statistics of an "
                    "earlier measurement for a number as --task-weight and a --compensation of "
                    "neurons"
                )
            holding = name == "task" and config.task_weight == "auto"
            limit = config.samples + (held_back_count(config.samples) if holding else 0)
            samples = load_samples(source, limit=limit, shuffle_seed=config.shuffle_seed)
            parts = {name: samples}
            if holding:
                parts = dict(
                    zip((name, "held_back"), hold_back(samples, config.samples), strict=True)
                )
            for part, chosen in parts.items():
                sets[part] = tokenize(
                    chosen,
                    opened,
                    max_length=config.max_length,
                    chat_template=config.chat_template,
                )
            facts[name] = {
                "source": samples.source,
                "available": samples.available,
                "sha256": parts[name].sha256,
                "tokens_sha256": sets[name].sha256,
                **asdict(sets[name].counts),
            }
        if config.priority == "kl" and sets["honesty"].sha256 == sets["task"].sha256:
            raise DataError(
                "the honesty and the task data are the same samples, so no neuron matters for one "
                "and not for the other; pass two different files to --honesty and --task"
            )
        return MeasuringData(sets, facts)


def check_same_data(
    statistics: Statistics, honesty: Data | None, task: Data | None, config: RestoreConfig
) -> None:
    """Data given beside statistics must be the data that was measured.

    Raises:
        StatisticsError: it is other data.
    """
    for name, source in (("honesty", honesty), ("task", task)):
        if source is None:
            continue
        samples = load_samples(source, limit=config.samples, shuffle_seed=config.shuffle_seed)
        check_hash(statistics, name, samples.source, samples.sha256)


def check_hash(statistics: Statistics, name: str, source: str, sha256: str) -> None:
    """Refuse samples of a source that are not those that were measured.

    Raises:
        StatisticsError: naming the source.
    """
    if sha256 != statistics.data.get(name, {}).get("sha256"):
        raise StatisticsError(
            f"the statistics were measured on other {name} samples than those of {source}; leave "
            f"--{name} out, or measure again"
        )
