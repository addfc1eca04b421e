"""Groups of transformer blocks whose curvature of both axes fits into memory at once."""

import os
import re
from collections.abc import Mapping, Sequence

import torch

from hcnr.errors import ConfigError

GIB = 2**30
# In [d, d] of the widest axis: what factorising holds beside the second moments, rounded up from
# the 6.4 that were measured.
_WORKSPACE = 7
_BLOCK = re.compile(r"^(?:.*?\.)?\d+(?=\.|$)")


def block_of(matrix: str) -> str:
    """The transformer block of a matrix: its name up to the first number."""
    found = _BLOCK.match(matrix)
    return found.group() if found else matrix


def curvature_bytes(shapes: Sequence[tuple[int, int]], passes: int) -> int:
    """Bytes that a group needs at once, float32.

    Second moments of both axes from every pass, the workspace of one factorisation, and the
    coordinates of delta. Inputs that matrices share are counted for each: which are shared is only
    known from a forward pass, and a plan must say the same as the run.

    Args:
        shapes: `(out, in)` of the group's matrices.
        passes: data sets and models that moments are taken of.
    """
    squares = sum(out * out + width * width for out, width in shapes)
    widest = max((max(shape) for shape in shapes), default=0)
    return 4 * (passes * squares + _WORKSPACE * widest**2 + sum(o * i for o, i in shapes))


def plan_groups(
    shapes: Mapping[str, tuple[int, int]], passes: int, budget: int | None
) -> list[list[str]]:
    """Consecutive whole blocks, as many in a group as fit.

    Args:
        shapes: matrix -> `(out, in)`, in the model's order.
        passes: as of `curvature_bytes`.
        budget: bytes; None puts all into one group.

    Raises:
        ConfigError: a single block does not fit.
    """
    blocks: dict[str, list[str]] = {}
    for name in shapes:
        blocks.setdefault(block_of(name), []).append(name)
    groups: list[list[str]] = []
    for block, names in blocks.items():
        joined = [*(groups[-1] if groups else []), *names]
        if groups and _fits([shapes[name] for name in joined], passes, budget):
            groups[-1] = joined
            continue
        if not _fits(own := [shapes[name] for name in names], passes, budget):
            assert budget is not None
            raise ConfigError(
                f"the curvature of {block} needs {curvature_bytes(own, passes) / GIB:.3g} GiB, "
                f"memory_budget allows {budget / GIB:.3g}; raise --memory-budget, or leave wide "
                "matrices out with --ignore"
            )
        groups.append(names)
    return groups


def _fits(shapes: Sequence[tuple[int, int]], passes: int, budget: int | None) -> bool:
    return budget is None or curvature_bytes(shapes, passes) <= budget


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def budget_of(memory_budget: float | None, device: torch.device) -> int | None:
    """Bytes to stay within: what was asked for, in GiB, else half of what is free."""
    if memory_budget is not None:
        return int(memory_budget * GIB)
    free = free_memory(device)
    return None if free is None else free // 2
