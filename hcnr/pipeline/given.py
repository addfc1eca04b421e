"""Statistics that were measured earlier: what a run takes over from them, and what it checks."""

from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import Data
from hcnr.data.samples import load_samples
from hcnr.errors import StatisticsError

TAKEN_OVER = ("samples", "shuffle_seed", "max_length", "chat_template", "attention", "dtype")
"""Settings that a run with given statistics takes from the statistics: they say how was
measured, and the run's own report and configuration must say it too."""


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
