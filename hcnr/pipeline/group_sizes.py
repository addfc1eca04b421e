"""Bytes of curvature of each group of matrices that is measured together, from shapes alone."""

import math
from collections.abc import Mapping

from hcnr.config import RestoreConfig
from hcnr.curvature.groups import (
    block_of,
    budget_of,
    curvature_bytes,
    one_axis_bytes,
    plan_groups,
    plan_one_axis,
)
from hcnr.curvature.spectral_bases import passes_of
from hcnr.pipeline.stages import one_axis_passes
from hcnr.repair.selection import count_of

Shapes = Mapping[str, tuple[int, int]]


def selected_of(config: RestoreConfig, matrices: int) -> int:
    """How many of so many matrices will be restored."""
    return count_of(1.0 if config.interpolates else config.cross_weight_ratio, matrices)


def group_bytes(shapes: Shapes, config: RestoreConfig, model: int, *, here: bool) -> list[int]:
    """Bytes of each group; which matrices will be selected is not known yet.

    Args:
        shapes: matrix -> `(out, in)`, in the model's order.
        config: of the run.
        model: bytes of the model that will be there too.
        here: whether the device is, so that what it has free is known.

    Returns:
        Of kinds that repair whole matrices as if all were selected; nothing without curvature.

    Raises:
        ConfigError: one block alone exceeds the memory budget.
    """
    known = here or config.memory_budget is not None
    budget = budget_of(config.memory_budget, config.device, model) if known else None
    if config.bases:
        passes = len(passes_of(config.bases, config))
        return [
            curvature_bytes([shapes[name] for name in group], passes, config.block_size)
            for group in plan_groups(shapes, passes, budget, config.block_size)
        ]
    sets = len(one_axis_passes(config))
    if not sets:
        return []
    asked = config.memory_budget is not None
    groups = plan_one_axis(shapes, config.axis, sets, budget, refuses=asked)
    held = [one_axis_bytes([shapes[name] for name in group], config.axis, sets) for group in groups]
    share = selected_of(config, len(shapes)) / len(shapes)
    if config.all_hessians or share == 1:
        return held
    if budget is None or share * sum(held) <= budget:
        return [int(share * sum(held))]
    return sorted(held, reverse=True)[: math.ceil(share * len(held))]


def largest_unit(shapes: Shapes, config: RestoreConfig) -> int:
    """Bytes of the largest group that cannot be made smaller: a block, or a matrix of one axis."""
    if config.bases:
        passes = len(passes_of(config.bases, config))
        blocks: dict[str, list[tuple[int, int]]] = {}
        for name, shape in shapes.items():
            blocks.setdefault(block_of(name), []).append(shape)
        return max(curvature_bytes(one, passes, config.block_size) for one in blocks.values())
    sets = len(one_axis_passes(config))
    return max(one_axis_bytes([shape], config.axis, sets) for shape in shapes.values())
