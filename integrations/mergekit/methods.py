"""Merge methods `hcnr` and `fisher` for mergekit: two models and one statistics file.

`hcnr` gives every tensor the bytes that `hcnr restore --statistics` gives it. `fisher` is Fisher
merging by neuron: both models' neurons, weighed by their per-sample Fisher scores.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from mergekit.merge_methods import (
    BasePolicy,
    InputContract,
    OptionalTensorPolicy,
    TensorGroup,
    merge_method,
    register,
    registered_methods,
)

from hcnr import RestoreConfig, Selection, Statistics, select
from hcnr.errors import CheckpointError, ConfigError, HcnrError
from hcnr.repair import check_curvature, repaired
from hcnr.source import DirectorySource
from integrations.mergekit.fisher import fisher_merge


class Plan(NamedTuple):
    """What is known beforehand."""

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
    return Plan(*pair, measured, settings, selection)


def _of(group: TensorGroup, statistics: str, config: str) -> tuple[Plan, str]:
    """The plan of a group's two models, and the group's matrix; no matrix is an empty name."""
    assert group.base is not None
    paths = [directory_of(entry.id) for entry in (group.base, group.non_base[0])]
    found, key = plan(*paths, statistics, config), group.metadata.name or ""
    tuned, stored = group.non_base[0].tensor, found.tuned.checkpoint.tensors.get(key)
    if stored is not None and stored.dtype != tuned.dtype:
        raise CheckpointError(
            f"{key} arrives as {tuned.dtype}, and is stored as {stored.dtype} in {found.tuned}; "
            "leave `dtype` out of the recipe and convert with `out_dtype`"
        )
    name = key.removesuffix(".weight")
    return found, name if name in found.statistics.matrices else ""


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


_TWO = InputContract(base=BasePolicy.REQUIRED, min_inputs=2, max_inputs=2)
_OPTIONAL = OptionalTensorPolicy.PASSTHROUGH_SINGLETON


def _hcnr(group: TensorGroup, statistics: str, config: str = "") -> torch.Tensor:
    found, name = _of(group, statistics, config)
    base, tuned = group.base, group.non_base[0].tensor
    if base is None or name not in found.selection.selected:
        return tuned
    mask = found.selection.masks[name]
    return repaired(name, base.tensor, tuned, mask, found.statistics, found.config).weight


def _fisher(group: TensorGroup, statistics: str, task_weight: float = 1.0) -> torch.Tensor:
    found, name = _of(group, statistics, "")
    base, tuned = group.base, group.non_base[0].tensor
    if base is None or not name:
        return tuned
    if not 0 <= task_weight < float("inf"):
        raise ConfigError(f"task_weight is {task_weight}; it must be a finite number >= 0")
    scores = found.statistics.scores
    return fisher_merge(
        base.tensor, tuned, scores["honesty"][name], scores["task"][name] * task_weight,
        axis=found.statistics.axis,
    )  # fmt: skip


METHODS = tuple(
    merge_method(
        function, name=name, pretty_name=title, reference_url=f"https://arxiv.org/abs/{paper}",
        contract=_TWO, optional_tensor_policy=_OPTIONAL, uses_accelerator=False,
    )
    for function, name, title, paper in (
        (_hcnr, "hcnr", "HCNR", "2511.12991"),
        (_fisher, "fisher", "Fisher by neuron", "2111.09832"),
    )
)  # fmt: skip


def enable() -> None:
    """Put both methods into mergekit's registry, once; HcnrError where it has others so called."""
    known = {method.spec.name: method for method in registered_methods()}
    for method in METHODS:
        if known.get(method.spec.name, method) is not method:
            raise HcnrError(f"mergekit has a method {method.spec.name!r} of its own already")
        if method.spec.name not in known:
            register(method)
