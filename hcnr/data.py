"""What a run measures on: both data sets, read, tokenised and described."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from hcnr.config import RestoreConfig
from hcnr.errors import DataError, StatisticsError
from hcnr.examples import Sample, SampleSet, load_samples
from hcnr.held_back import FEW, FEWEST, held_back_count, hold_back, measured_count
from hcnr.model import open_tokenizer
from hcnr.pair import Pair
from hcnr.stages import Stages
from hcnr.starter import STARTER
from hcnr.statistics import Statistics
from hcnr.tokens import TokenizedSet, tokenize

TAKEN_OVER = ("samples", "shuffle_seed", "max_length", "chat_template", "attention", "dtype")
"""Settings that a run with given statistics takes from the statistics: they say how was
measured, and the run's own report and configuration must say it too."""

Data = str | Path | Iterable[Mapping[str, Any] | Sample]


class MeasuringData(NamedTuple):
    """What a run measures on.

    Attributes:
        sets: tokenised samples of `honesty` and `task`, those that are measured.
        facts: of `honesty` and `task`, for the report.
        held_back: tokenised samples that follow the measured ones, by data set; a set of which too
            few are left is missing.
    """

    sets: dict[str, TokenizedSet]
    facts: dict[str, dict[str, Any]]
    held_back: dict[str, TokenizedSet]


def read_data(
    pair: Pair,
    honesty: Data | None,
    task: Data | None,
    config: RestoreConfig,
    tokenizer: Any,
    stages: Stages,
    *,
    holding: bool = False,
) -> MeasuringData:
    """Tokenise both data sets.

    Args:
        pair: base and tuned.
        honesty: samples.
        task: samples.
        config: how many, and how they become tokens.
        tokenizer: where the tuned model does not come with one.
        stages: told about it.
        holding: whether task samples must be held back, see `leave_room`; otherwise those that
            follow the measured ones are, where there are some.

    Raises:
        DataError: a set is missing or cannot be used, both are the same, or none can be held back.
    """
    with stages.stage("read the data"):
        opened = pair.tuned.tokenizer() if tokenizer is None else open_tokenizer(tokenizer)
        sets, facts, held_back = {}, {}, {}

        def tokens(samples: SampleSet) -> TokenizedSet:
            return tokenize(
                samples,
                opened,
                max_length=config.max_length,
                chat_template=config.chat_template,
            )

        for name, source in (("honesty", honesty), ("task", task)):
            if source is None:
                raise DataError(
                    f"no {name} data was given; pass --{name} FILE, or --statistics of an "
                    "earlier measurement for a number as --task-weight and a --compensation of "
                    "neurons"
                )
            if name == "task" and isinstance(source, str) and source == STARTER:
                raise DataError(
                    "the starter set holds honesty samples, none of a task; pass samples of what "
                    "TUNED was tuned for to --task"
                )
            limit = config.samples + held_back_count(config.samples)
            samples = load_samples(source, limit=limit, shuffle_seed=config.shuffle_seed)
            measured = samples
            if (holding and name == "task") or len(samples) >= config.samples + FEWEST:
                measured, rest = hold_back(samples, config.samples)
                held_back[name] = tokens(rest)
            elif len(samples) > config.samples:
                measured = samples.part(0, config.samples)
            sets[name] = tokens(measured)
            facts[name] = {
                "source": samples.source,
                "available": samples.available,
                "format": samples.description,
                "sha256": measured.sha256,
                "tokens_sha256": sets[name].sha256,
                **asdict(sets[name].counts),
            }
        if config.priority == "kl" and sets["honesty"].sha256 == sets["task"].sha256:
            raise DataError(
                "the honesty and the task data are the same samples, so no neuron matters for one "
                "and not for the other; pass two different files to --honesty and --task"
            )
        return MeasuringData(sets, facts, held_back)


def leave_room(config: RestoreConfig, task: Data | None, messages: list[str]) -> RestoreConfig:
    """Measure fewer samples where a searched task weight would have none left to hold back.

    The smaller number holds for both data sets and is in the configuration, so that a run with it
    and the weight that was found measures the same samples.

    Args:
        config: of a run with `task_weight` auto.
        task: the task samples, readable more than once.
        messages: gets a sentence where the number changes, or where few samples decide.
    """
    if task is None:
        return config
    available = load_samples(task, limit=config.samples).available
    count = measured_count(available, config.samples)
    if count != config.samples:
        messages.append(
            f"samples is {count}, not {config.samples}: of {available} task samples some are held "
            "back to choose the task weight by"
        )
    if (rest := min(available - count, held_back_count(count))) < FEW:
        messages.append(f"the task weight was chosen by {rest} held-back samples only")
    return config.replace(samples=count)


def as_measured(
    config: RestoreConfig, statistics: Statistics, messages: list[str]
) -> RestoreConfig:
    """The configuration with the settings that were decided when the statistics were measured."""
    measured = {key: statistics.settings[key] for key in TAKEN_OVER if key in statistics.settings}
    changed = {key: value for key, value in measured.items() if value != getattr(config, key)}
    messages += [
        f"{key} is {value}, as the statistics were measured, not {getattr(config, key)}"
        for key, value in changed.items()
    ]
    return config.replace(**changed)


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
            f"the statistics were measured on other {name} samples than those of {source}; pass "
            f"the same ones, leave --{name} out where nothing else is measured, or measure again"
        )
