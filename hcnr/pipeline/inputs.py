"""What a run checks of its inputs, what it takes of statistics that are given, and its own key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hcnr import ranks
from hcnr.checkpoint import stamps
from hcnr.config import RestoreConfig
from hcnr.curvature.scores import NeuronScores
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import Data, MeasuringData
from hcnr.data.samples import load_samples
from hcnr.errors import HcnrError, StatisticsError
from hcnr.models.model import resolve_device
from hcnr.models.open_models import Role
from hcnr.models.pair import Pair
from hcnr.models.source import DirectorySource
from hcnr.versions import code_digest, versions

MEASURED_WITH = (
    "axis", "targets", "ignore", "fisher_at", "hessian_at", "samples", "shuffle_seed",
    "max_length", "chat_template", "attention", "dtype",
)  # fmt: skip
"""Settings that the numbers in the statistics depend on."""
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


def measured_statistics(
    pair: Pair, config: RestoreConfig, data: MeasuringData, scores: Mapping[str, NeuronScores]
) -> Statistics:
    """Statistics of what was measured, without curvature yet.

    Args:
        pair: base and tuned; experts that it was found to have too few tokens for are named.
        config: of the run.
        data: what was measured on.
        scores: by data set; empty where whole matrices are repaired.
    """
    settings = config.model_dump(mode="json")
    known = set(pair.matrices)
    few = [n for n in pair.tuned.matrices(config.targets, config.ignore) if n not in known]
    return Statistics(
        axis=config.axis,
        scores={name: found.mean for name, found in scores.items()},
        halves={name: found.halves for name, found in scores.items()}
        if all(found.halves for found in scores.values())
        else {},
        fingerprints=pair.fingerprints,
        settings={
            **{key: settings[key] for key in MEASURED_WITH},
            **({"few_tokens": few} if few else {}),
        },
        data=data.facts,
    )


def check_same_inputs(
    pair: Pair, config: RestoreConfig, data: MeasuringData, statistics: Statistics | None
) -> None:
    """Refuse several processes of one run that read other models, data or settings.

    Raises:
        ConfigError: naming the first that does.
    """
    if ranks.size() == 1:
        return
    sets = (*data.sets.items(), *data.held_back.items())
    for what, value in (
        ("models", (pair.fingerprints, pair.matrices)),
        ("data", [(name, samples.sha256) for name, samples in sets]),
        ("statistics", None if statistics is None else statistics.sha256()),
        ("settings", config.model_dump(mode="json")),
        ("versions of its libraries", (versions(), code_digest())),
    ):
        ranks.refuse_different(what, value, what)


def refuse_changed(pair: Pair) -> None:
    """Refuse, in all processes, models whose files one of them found rewritten meanwhile.

    Raises:
        CheckpointError: naming the file.
    """
    failed: HcnrError | None = None
    try:
        pair.check_unchanged()
    except HcnrError as error:
        failed = error
    ranks.agreed(failed)


def run_key(
    pair: Pair, config: RestoreConfig, data: MeasuringData | None, statistics: Statistics | None
) -> dict[str, Any] | None:
    """All that decides what a run finds, so that finished passes are used by the same one alone.

    No data is read where all that is measured was given.

    Returns:
        Plain values for JSON; None where a model is in memory, which nothing tells from another.
    """
    files, settings, generation = {}, {}, {}
    roles: tuple[Role, ...] = ("base", "tuned")
    for role in roles:
        source = pair.at(role)
        if not isinstance(source, DirectorySource):
            return None
        # A fingerprint alone reads a few rows of each matrix.
        files[role] = stamps(shard.file for shard in source.checkpoint.shards)
        settings[role] = source.settings
        generation[role] = _generation(source.path)
    return {
        "files": files,
        "settings": settings,
        "generation": generation,
        "fingerprints": pair.fingerprints,
        "data": {name: samples.sha256 for name, samples in (data.sets if data else {}).items()},
        "held_back": {
            name: samples.sha256 for name, samples in (data.held_back if data else {}).items()
        },
        "config": config.model_dump(mode="json"),
        # What "auto" means here; a folder may be seen by several machines.
        "device": str(resolve_device(config.device)),
        "statistics": None if statistics is None else statistics.sha256(),
        "versions": versions(),
        "code": code_digest(),
    }


def _generation(directory: Path) -> str | None:
    """What a model's directory says of how answers end; None where it says nothing."""
    try:
        return (directory / "generation_config.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
