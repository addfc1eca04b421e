"""The pair of a merge, checked and selected from before a tensor is merged."""

import functools
from pathlib import Path
from typing import NamedTuple

from hcnr import RestoreConfig, Selection, Statistics, select
from hcnr.errors import CheckpointError, ConfigError
from hcnr.models.directory import DirectorySource
from hcnr.repair.compensate import check_curvature


class Plan(NamedTuple):
    """What is known before the first tensor arrives."""

    base: DirectorySource
    tuned: DirectorySource
    statistics: Statistics
    config: RestoreConfig
    selection: Selection


@functools.lru_cache(maxsize=1)
def plan(base: str, tuned: str, statistics: str, config: str) -> Plan:
    """Check a pair and its statistics and select the neurons, once per merge.

    Args:
        base: directory of the honest model.
        tuned: directory of the fine-tuned model.
        statistics: file of `hcnr measure`.
        config: YAML settings of hcnr, such as a restoration's `hcnr_config.yaml`; empty for the
            paper's (`sum`, R_IW 0.5, R_CW 0.4).

    Raises:
        HcnrError: files are missing or do not belong together, or the compensation needs data.
    """
    measured = Statistics.load(statistics)
    if config:
        settings = RestoreConfig.from_file(config)
    else:
        keys = ("axis", "targets", "ignore", "fisher_at", "hessian_at")
        known = {key: measured.settings[key] for key in keys if key in measured.settings}
        settings = RestoreConfig.from_preset("paper", **{**known, "axis": measured.axis})
    if settings.bases or settings.searches:
        raise ConfigError(
            f"compensation {settings.compensation!r} with task_weight {settings.task_weight!r} "
            "needs the data, which a merge does not have; use none, sum, joint or balanced with a "
            "number, or run `hcnr restore`"
        )
    pair = DirectorySource(base), DirectorySource(tuned)
    selection = select(measured, *pair, settings)
    check_curvature(measured, selection, settings)
    for source in pair:
        source.check_finite()
        for name in selection.selected:
            if f"{name}.weight" not in source.placed.placement.stored:
                raise CheckpointError(
                    f"{name} is merged or split while {source} is loaded, and a merge works on "
                    "tensors as they are stored; leave it out with `ignore`, or run `hcnr restore`"
                )
    return Plan(*pair, measured, settings, selection)


def directory_of(model: object) -> str:
    """Directory of one of mergekit's models.

    Raises:
        CheckpointError: it is none on this machine, or has an adapter on top.
    """
    reference = getattr(model, "model", None)
    path = getattr(reference, "path", str(model))
    if getattr(model, "lora", None) is not None:
        raise CheckpointError(f"{model} has an adapter on top; merge it into {path} first")
    if not Path(path).is_dir():
        raise CheckpointError(f"{path} is no directory; download the model and name its folder")
    return str(Path(path).resolve())
