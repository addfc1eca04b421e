"""Merge methods `hcnr` and `fisher` for mergekit: two models and one statistics file.

`hcnr` gives every tensor the bytes that `hcnr restore --statistics` gives it. `fisher` is Fisher
merging by neuron: both models' neurons, weighed by their per-sample Fisher scores.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

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

from hcnr.errors import CheckpointError, ConfigError, HcnrError
from hcnr.repair.compensate import final_weight
from integrations.mergekit.fisher import fisher_merge
from integrations.mergekit.plan import Plan, directory_of, plan


def _of(group: TensorGroup, statistics: str, config: str) -> tuple[Plan, str]:
    """The plan of a group's two models, and the group's matrix; no matrix is an empty name."""
    assert group.base is not None
    paths = [directory_of(entry.id) for entry in (group.base, group.non_base[0])]
    merge_plan, key = plan(*paths, statistics, config), group.metadata.name or ""
    tuned, stored = group.non_base[0].tensor, merge_plan.tuned.checkpoint.tensors.get(key)
    if stored is not None and stored.dtype != tuned.dtype:
        raise CheckpointError(
            f"{key} arrives as {tuned.dtype}, and is stored as {stored.dtype} in "
            f"{merge_plan.tuned}; leave `dtype` out of the recipe and convert with `out_dtype`"
        )
    placed = merge_plan.tuned.placed.placement
    name = placed.names.get(key, key).removesuffix(".weight")
    return merge_plan, name if name in merge_plan.statistics.matrices else ""


_TWO = InputContract(base=BasePolicy.REQUIRED, min_inputs=2, max_inputs=2)


def _hcnr(group: TensorGroup, statistics: str, config: str = "") -> torch.Tensor:
    merge_plan, name = _of(group, statistics, config)
    base, tuned = group.base, group.non_base[0].tensor
    if base is None or name not in merge_plan.selection.selected:
        return tuned
    mask = merge_plan.selection.masks[name]
    return final_weight(
        name, base.tensor, tuned, mask, merge_plan.statistics, merge_plan.config
    ).weight


def _fisher(group: TensorGroup, statistics: str, task_weight: float = 1.0) -> torch.Tensor:
    merge_plan, name = _of(group, statistics, "")
    base, tuned = group.base, group.non_base[0].tensor
    if base is None or not name:
        return tuned
    if not 0 <= task_weight < float("inf"):
        raise ConfigError(f"task_weight is {task_weight}; it must be a finite number >= 0")
    scores = merge_plan.statistics.scores
    return fisher_merge(
        base.tensor, tuned, scores["honesty"][name], scores["task"][name] * task_weight,
        axis=merge_plan.statistics.axis,
    )  # fmt: skip


METHODS = tuple(
    merge_method(
        function, name=name, pretty_name=title, contract=_TWO, uses_accelerator=False,
        reference_url=f"https://arxiv.org/abs/{paper}",
        optional_tensor_policy=OptionalTensorPolicy.PASSTHROUGH_SINGLETON,
    )
    for function, name, title, paper in (
        (_hcnr, "hcnr", "HCNR", "2511.12991"),
        (_fisher, "fisher", "Fisher by neuron", "2111.09832"),
    )
)  # fmt: skip


def enable() -> None:
    """Put both methods into mergekit's registry; more than once does nothing.

    Raises:
        HcnrError: mergekit has another method of one of the names.
    """
    known = {method.spec.name: method for method in registered_methods()}
    for method in METHODS:
        if known.get(method.spec.name, method) is not method:
            raise HcnrError(f"mergekit has a method {method.spec.name!r} of its own already")
        if method.spec.name not in known:
            register(method)
