"""Groups of matrices whose curvature, of both axes or along one, fits into memory at once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from hcnr import ranks
from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError
from hcnr.kinds import Axis
from hcnr.models.device_memory import GIB, free_memory
from hcnr.models.linear import shape_of
from hcnr.models.model import resolve_device
from hcnr.models.pair import Pair

# In second moments of the widest axis: what factorising holds beside them, rounded up from the 6.4
# that were measured.
_WORKSPACE = 7
# What compensating a matrix holds beside curvature along one axis: squares of its neurons, and
# matrices of its shape. Rounded up from 2.0 and 4.6 that were measured.
_SQUARES, _MATRICES = 2, 5
_BLOCK = re.compile(r"^(?:.*?\.)?\d+(?=\.|$)")


def block_of(matrix: str) -> str:
    """The transformer block of a matrix: its name up to the first number."""
    match = _BLOCK.match(matrix)
    return match.group() if match else matrix


def curvature_bytes(
    shapes: Sequence[tuple[int, int]], passes: int, block_size: int | None = None
) -> int:
    """Bytes that a group needs at once, float32.

    The larger of all second moments and of all bases, which hold two squares each and take their
    place; the workspace of one factorisation; delta and a gradient, in coordinates. Inputs that
    matrices share are counted for each: which are shared is only known from a forward pass, and a
    plan must say the same as the run.

    Args:
        shapes: `(out, in)` of the group's matrices.
        passes: data sets and models that moments are taken of.
        block_size: neurons of a diagonal block of the curvature; None for whole matrices.
    """

    def square(width: int) -> int:
        return width * min(width, block_size or width)

    # One pass is the task's, each other one makes a kind of basis.
    kinds = passes - 1
    squares = max(passes, 2 * kinds) * sum(square(out) + square(width) for out, width in shapes)
    widest = max((max(shape) for shape in shapes), default=0)
    return 4 * (squares + _WORKSPACE * square(widest) + 2 * kinds * sum(o * i for o, i in shapes))


def plan_groups(
    shapes: Mapping[str, tuple[int, int]],
    passes: int,
    budget: int | None,
    block_size: int | None = None,
) -> list[list[str]]:
    """Consecutive whole blocks, as many in a group as fit.

    Args:
        shapes: matrix -> `(out, in)`, in the model's order.
        passes: as of `curvature_bytes`.
        budget: bytes; None puts all into one group.
        block_size: as of `curvature_bytes`.

    Raises:
        ConfigError: a single block does not fit.
    """

    def needed(names: Sequence[str]) -> int:
        return curvature_bytes([shapes[name] for name in names], passes, block_size)

    groups = _joined(_blocks(shapes), needed, budget)
    for names in groups:
        if budget is not None and needed(names) > budget:
            raise ConfigError(
                f"the curvature of {block_of(names[0])} needs {needed(names) / GIB:.3g} GiB, "
                f"memory_budget allows {budget / GIB:.3g}; raise --memory-budget, set --block-size "
                "(256, say), or leave wide matrices out with --ignore"
            )
    return groups


def one_axis_bytes(shapes: Sequence[tuple[int, int]], axis: Axis, sets: int) -> int:
    """Bytes that a group needs at once where curvature along one axis is asked for, float32.

    All second moments, and what compensating one matrix takes. Inputs that matrices share are
    counted for each, as in `curvature_bytes`.

    Args:
        shapes: `(out, in)` of the group's matrices.
        axis: the neuron axis.
        sets: data sets that moments are taken of.
    """
    widths = [out if axis == "output" else into for out, into in shapes]
    widest, largest = max(widths, default=0), max((o * i for o, i in shapes), default=0)
    squares = sets * sum(width**2 for width in widths) + _SQUARES * widest**2
    return 4 * (squares + _MATRICES * largest)


def plan_one_axis(
    shapes: Mapping[str, tuple[int, int]],
    axis: Axis,
    sets: int,
    budget: int | None,
    *,
    refuses: bool = True,
) -> list[list[str]]:
    """Consecutive whole blocks, as many in a group as fit; one that does not is taken apart.

    Args:
        shapes: matrix -> `(out, in)`, in the model's order.
        axis: the neuron axis.
        sets: data sets that moments are taken of.
        budget: bytes; None puts all into one group.
        refuses: whether a matrix that does not fit alone is refused; otherwise it is a group.

    Raises:
        ConfigError: a single matrix does not fit.
    """

    def needed(names: Sequence[str]) -> int:
        return one_axis_bytes([shapes[name] for name in names], axis, sets)

    units: list[list[str]] = []
    for names in _blocks(shapes):
        whole = budget is None or needed(names) <= budget
        units += [names] if whole else [[name] for name in names]
    groups = _joined(units, needed, budget)
    for names in groups:
        if refuses and budget is not None and needed(names) > budget:
            raise ConfigError(
                f"the curvature of {names[0]} needs {needed(names) / GIB:.3g} GiB, memory_budget "
                f"allows {budget / GIB:.3g}; raise --memory-budget, or leave the matrix out with "
                "--ignore"
            )
    return groups


def _blocks(matrices: Iterable[str]) -> list[list[str]]:
    """Matrices by transformer block."""
    blocks: dict[str, list[str]] = {}
    for name in matrices:
        blocks.setdefault(block_of(name), []).append(name)
    return list(blocks.values())


def _joined(
    units: Iterable[list[str]], needed: Callable[[Sequence[str]], int], budget: int | None
) -> list[list[str]]:
    """Consecutive units, as many in a group as the budget allows; one at the least."""
    groups: list[list[str]] = []
    for names in units:
        joined = [*(groups[-1] if groups else []), *names]
        if groups and (budget is None or needed(joined) <= budget):
            groups[-1] = joined
        else:
            groups.append(names)
    return groups


def square_bytes(sizes: Iterable[int]) -> int:
    """Bytes of square matrices, float32."""
    return sum(4 * size**2 for size in sizes)


def budget_of(memory_budget: float | None, device: str, model: int | None) -> int | None:
    """Bytes to stay within.

    Args:
        memory_budget: what was asked for, in GiB; None takes half of what is free on the device
            beside the model.
        device: as in the configuration.
        model: bytes of the model that will be there too, where they are known.

    Raises:
        ModelError: the device is asked what is free, and there is none.
    """
    if memory_budget is not None:
        return int(memory_budget * GIB)
    free = free_memory(resolve_device(device))
    return None if free is None else max(free - (model or 0), 0) // 2


def agreed_groups(
    pair: Pair,
    matrices: Iterable[str],
    config: RestoreConfig,
    plan: Callable[[Mapping[str, tuple[int, int]], int | None], list[list[str]]],
    *,
    held: bool,
) -> list[list[str]]:
    """Groups by a plan; where several processes measure, by the one that has the least room.

    Args:
        pair: base and tuned.
        matrices: names, in the model's order.
        config: targets, memory budget.
        plan: makes groups of shapes `(out, in)` by matrix and of the bytes to stay within.
        held: whether a model is in memory already, so that what is free is beside it.

    Raises:
        HcnrError: as the plan; or there is no such device.
    """
    layers = pair.tuned.matrices(config.targets, config.ignore)
    model = None if held else pair.in_memory(config)
    budget = budget_of(config.memory_budget, config.device, model)
    groups = plan({name: shape_of(layers[name]) for name in matrices}, budget)
    return max(ranks.gathered("groups", groups), key=len)
