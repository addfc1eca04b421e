"""The processes that share this one's run, and what each of them does of it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class RunGroup:
    """The processes of this run.

    Attributes:
        rank: of this one, from 0.
        size: how many.
        store: what they know of each other beside the exchanges.
        timeout: seconds.
        tensors: the group that exchanges tensors on GPUs; None for the default one.
        count: exchanges so far, equal in all of them.
    """

    rank: int
    size: int
    store: Any
    timeout: float
    tensors: Any = None
    count: int = 0


_group: RunGroup | None = None


def current() -> RunGroup | None:
    """The processes that share the passes; None where this one has them to itself."""
    return _group


@contextlib.contextmanager
def sharing(group: RunGroup | None) -> Iterator[None]:
    """Share the passes with a group inside, or with nobody."""
    global _group
    before, _group = _group, group
    try:
        yield
    finally:
        _group = before


def alone() -> contextlib.AbstractContextManager[None]:
    """Share nothing inside: the passes of this process are its own."""
    return sharing(None)


def size() -> int:
    """How many processes share the passes."""
    return 1 if _group is None else _group.size


def leads() -> bool:
    """Whether this process prints, and puts the output in its place."""
    return _group is None or _group.rank == 0


def rank() -> int:
    """The rank of this process among them, from 0."""
    return 0 if _group is None else _group.rank


def share(indices: Sequence[int], lengths: Sequence[int]) -> Sequence[int]:
    """This process's share of some samples: every n-th, longest first, so that all are alike.

    Args:
        indices: of the samples.
        lengths: tokens of every sample of the set.
    """
    if _group is None:
        return indices
    order = sorted(indices, key=lambda i: (-lengths[i], i))
    return order[_group.rank :: _group.size]


def owns(index: int) -> bool:
    """Whether this process does the `index`-th of some pieces of work."""
    return _group is None or index % _group.size == _group.rank
