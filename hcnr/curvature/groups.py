"""Groups of transformer blocks whose curvature of both axes fits into memory at once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from hcnr.errors import ConfigError
from hcnr.models.device_memory import GIB
from hcnr.models.model import resolve_device

# In second moments of the widest axis: what factorising holds beside them, rounded up from the 6.4
# that were measured.
_WORKSPACE = 7
_BLOCK = re.compile(r"^(?:.*?\.)?\d+(?=\.|$)")


def block_of(matrix: str) -> str:
    """The transformer block of a matrix: its name up to the first number."""
    found = _BLOCK.match(matrix)
    return found.group() if found else matrix


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

    groups = _joined(shapes, needed, budget)
    for names in groups:
        if budget is not None and needed(names) > budget:
            raise ConfigError(
                f"the curvature of {block_of(names[0])} needs {needed(names) / GIB:.3g} GiB, "
                f"memory_budget allows {budget / GIB:.3g}; raise --memory-budget, set --block-size "
                "(256, say), or leave wide matrices out with --ignore"
            )
    return groups


def _joined(
    matrices: Iterable[str], needed: Callable[[Sequence[str]], int], budget: int | None
) -> list[list[str]]:
    """Consecutive whole blocks, as many in a group as the budget allows; one at the least."""
    blocks: dict[str, list[str]] = {}
    for name in matrices:
        blocks.setdefault(block_of(name), []).append(name)
    groups: list[list[str]] = []
    for names in blocks.values():
        joined = [*(groups[-1] if groups else []), *names]
        if groups and (budget is None or needed(joined) <= budget):
            groups[-1] = joined
        else:
            groups.append(names)
    return groups


def one_axis_groups(
    sizes: Mapping[str, int], device: torch.device, budget: int | None = None
) -> list[list[str]]:
    """Consecutive whole blocks whose curvature along one axis is held at once.

    In main memory everything stays anyway, so there is one group. On a GPU half of what is free may
    be taken: activations need the rest. A block that does not fit is a group of its own.

    Args:
        sizes: matrix -> neurons, in the model's order.
        device: of the model, which is there already.
        budget: bytes; None asks the device.
    """
    if budget is None and device.type != "cpu":
        budget = (free_memory(device) or 0) // 2
    return _joined(sizes, lambda names: square_bytes(sizes[name] for name in names), budget)


def square_bytes(sizes: Iterable[int]) -> int:
    """Bytes of square matrices, float32."""
    return sum(4 * size**2 for size in sizes)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device; None where it does not say.

    Main memory that only caches files counts as free, as the kernel says it does; so does what
    torch keeps of a GPU's for itself, which is given back first.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


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
