"""Curvature along the neuron axis that does not fit into memory together."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from hcnr.checkpoint.mapped import mapped
from hcnr.config import RestoreConfig
from hcnr.curvature.groups import agreed_groups, budget_of, plan_one_axis
from hcnr.models.pair import Pair


def one_axis_groups(
    pair: Pair, matrices: Sequence[str], config: RestoreConfig, sets: int, *, held: bool = False
) -> list[list[str]]:
    """Groups of matrices whose curvature along the neuron axis is measured together.

    Args:
        pair: base and tuned.
        matrices: names, in the model's order.
        config: axis, memory budget.
        sets: data sets that it is taken on.
        held: whether a model is in memory already, so that what is free is beside it.

    Raises:
        ConfigError: one matrix alone exceeds the memory budget that was asked for.
        ModelError: there is no such device.
    """
    # What is free is a guess; what was asked for is not.
    asked = config.memory_budget is not None

    def plan(shapes: Mapping[str, tuple[int, int]], budget: int | None) -> list[list[str]]:
        return plan_one_axis(shapes, config.axis, sets, budget, refuses=asked)

    return agreed_groups(pair, matrices, config, plan, held=held)


def kept_apart(
    group: Mapping[str, Tensor], memory_budget: float | None, total: int
) -> dict[str, Tensor]:
    """What was measured of one group of several, where it is out of the next one's way.

    That is main memory, where a GPU measures and all groups so far fit there. Else it is a file:
    tensors map it, so that they are read as they are used and nothing of them has to stay.

    Args:
        group: matrix -> curvature; matrices may share one.
        memory_budget: GiB that all of it may take; None allows half of what main memory has free.
        total: bytes of this group and of all before it.

    Raises:
        OutputError: the file cannot be written.
    """
    # What is shared stays shared.
    own = {id(gram): gram for gram in group.values()}
    room = budget_of(memory_budget, "cpu", None)
    on_gpu = any(gram.is_cuda for gram in own.values())
    if on_gpu and room is not None and total <= room:
        moved = {key: gram.cpu() for key, gram in own.items()}
    else:
        moved = mapped(own)
    return {name: moved[id(gram)] for name, gram in group.items()}
