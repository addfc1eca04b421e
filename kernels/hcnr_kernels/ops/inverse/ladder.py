"""The damping ladder: what a failed factorisation is retried with, and how it ends."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.errors import FactorizationError

DAMPING_LADDER = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""What a failed factorisation is retried with, in this order, above the damping asked for."""

NON_FINITE = -1
"""Status of a matrix that holds NaN or infinity."""


class Climb(NamedTuple):
    """Damping and int32 status `[B]` of every matrix, and the failed ones, known to the host."""

    damping: Tensor
    status: Tensor
    failed: list[int]


def climb(
    finite: Tensor, damping: float, attempt: Callable[[Tensor | None, float], Tensor]
) -> Climb:
    """Try every matrix at `damping`, the failed ones alone at each `DAMPING_LADDER` value above it.

    On a GPU the host waits once, to read the status, unless a matrix has failed.

    Args:
        finite: `[B]` bool, matrices worth trying.
        damping: The first level.
        attempt: Factorises the matrices `which` (None for all) at a level; returns the order of
            the failing minor of each, zero where it succeeded, never a negative number.
    """
    status = torch.where(finite, 1, NON_FINITE).to(torch.int32)
    used = torch.full(finite.shape, damping, dtype=torch.float64, device=finite.device)
    batch = finite.shape[0]
    # What holds NaN is not tried, but to know that on a GPU takes longer than to try.
    codes = status.tolist() if finite.device.type == "cpu" else [1] * batch
    for level in (damping, *(value for value in DAMPING_LADDER if value > damping)):
        pending = [place for place, code in enumerate(codes) if code > 0]
        if not pending:
            break
        which = None
        if len(pending) < batch:
            which = torch.tensor(pending, device=finite.device)
        order = attempt(which, level)
        if which is None:
            status = torch.where(finite, order, status)
            used.fill_(level)
        else:
            status[which] = torch.where(finite[which], order, status[which])
            used[which] = level
        codes = status.tolist()
    return Climb(used, status, [place for place, code in enumerate(codes) if code != 0])


def failing_order(orders: Tensor, size: int) -> Tensor:
    """Order of each matrix's first failing minor from those of its blocks `[B, m]`; 0 if none."""
    failed = orders > 0
    block = failed.int().argmax(1)
    order = block * size + orders.gather(1, block[:, None]).squeeze(1)
    return torch.where(failed.any(1), order, 0).to(torch.int32)


def raise_on_failure(status: Tensor, damping: Tensor, names: Sequence[str]) -> None:
    """Raise the first bad status as a `FactorizationError`: which matrix, and what to do."""
    codes = status.tolist()
    if not any(codes):
        return
    for name, code, used in zip(names, codes, damping.tolist(), strict=True):
        if code == NON_FINITE:
            raise FactorizationError(
                f"The curvature of {name} holds NaN or infinity: its activations or gradients "
                "overflowed; measure in a wider dtype or look for broken weights."
            )
        if code > 0:
            raise FactorizationError(
                f"The curvature of {name} is not positive definite: its leading minor of order "
                f"{code} fails even with damping {used:g}. A second moment fails by rounding alone "
                "and where tokens are few: measure more tokens than it has neurons, ask for a "
                "larger damping, or set a block size; if it is your own, check that it is x^T x, "
                "symmetrised."
            )
