"""What the processes of a run tell each other: values, sums of tensors, errors.

Each exchange has a number and a name, and every process must be at the same one.
"""

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hcnr.errors import ConfigError, HcnrError, RankError
from hcnr.ranks.group import RunGroup, current, leads
from hcnr.ranks.launcher import TIMEOUT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_PIECE = 1 << 24
"""Elements that are exchanged at once: what adding holds beside its operands, per process."""


def gathered(name: str, value: T) -> list[T]:
    """The value of every process, in the order of ranks.

    Args:
        name: of the exchange; that of every process must be the same.
        value: can be pickled.

    Raises:
        RankError: another process ended or does not answer, or they exchange different things.
    """
    if (group := current()) is None:
        return [value]
    import torch.distributed as dist

    group.count += 1
    values: list[Any] = [None] * group.size
    with explained(group):
        dist.all_gather_object(values, (group.count, name, value))
    _check_together(group, name, [one[:2] for one in values])
    return [one[2] for one in values]


def decided(name: str, value: T) -> T:
    """Process 0's value, in all of them; arguments and errors as of `gathered`."""
    return value if current() is None else gathered(name, value if leads() else None)[0]  # pyright: ignore[reportReturnType]


def handed_out(name: str, index: int, data: bytes | None) -> bytes:
    """What the owner of the `index`-th piece of work made of it, in all processes.

    Args:
        name: of the exchange.
        index: of the piece.
        data: in the owner what it made; None in others.

    Raises:
        RankError: as `gathered`.
    """
    if (group := current()) is None:
        assert data is not None
        return data
    import torch
    import torch.distributed as dist

    owner = index % group.size
    nbytes = gathered(name, None if data is None else len(data))[owner]
    assert nbytes is not None
    with explained(group):
        if data is None:
            buffer = torch.empty(nbytes, dtype=torch.uint8)
        else:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        for piece in buffer.split(_PIECE):
            dist.broadcast(piece, src=owner)
    return data if data is not None else buffer.numpy().tobytes()


def agreed(error: HcnrError | None) -> None:
    """Raise in every process what one of them found wrong.

    Raises:
        HcnrError: that of the lowest rank that has one.
    """
    # Words and kind, as not every error can be made again of what its pickle keeps.
    refusal = None if error is None else (type(error), str(error))
    first = next((one for one in gathered("errors", refusal) if one is not None), None)
    if error is not None:
        raise error
    if first is not None:
        kind, words = first
        another = kind.__new__(kind, words)
        another.args = (words,)
        raise another


def refuse_different(name: str, value: Any, what: str) -> None:
    """Refuse processes that see different inputs.

    Raises:
        ConfigError: naming the first process that does.
    """
    values = gathered(name, value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise ConfigError(
                f"process {rank} sees other {what} than process 0; give all the same, at the same "
                "places on every machine"
            )


def merged(name: str, values: Mapping[K, T]) -> dict[K, T]:
    """Entries of all processes; of those that several have, the lowest rank's."""
    union: dict[K, T] = {}
    for entries in gathered(name, dict(values)):
        union = {**entries, **union}
    return union


def counted(name: str, values: Mapping[K, int]) -> dict[K, int]:
    """Integers added over all processes; what one lacks counts as 0 there."""
    totals: dict[K, int] = {}
    for counts in gathered(name, dict(values)):
        for key, value in counts.items():
            totals[key] = totals.get(key, 0) + value
    return totals


def summed(name: str, tensors: Mapping[K, "Tensor"], device: "torch.device") -> "dict[K, Tensor]":
    """Tensors added over all processes, in place: `((t_0 + t_1) + t_2) + ...` by rank.

    Every process adds in that order, in the tensors' own dtype, so all hold the same bytes.

    Args:
        name: of the exchange.
        tensors: contiguous; what one process lacks counts as zeros there.
        device: where zeros are made.

    Raises:
        RankError: as `gathered`, or shapes differ.
    """
    if (group := current()) is None:
        return dict(tensors)
    import torch

    own = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
    layouts = gathered(name, own)
    union: dict[K, Any] = {}
    for by_key in layouts:
        for key, layout in by_key.items():
            if union.setdefault(key, layout) != layout:
                raise RankError(f"the processes of this run have different shapes of {key}")
    totals = {}
    for key, (shape, dtype) in union.items():
        total = tensors.get(key)
        if total is None:
            total = torch.zeros(shape, dtype=dtype, device=device)
        with explained(group):
            _add(group, total.view(-1))
        totals[key] = total
    return totals


def _add(group: RunGroup, flat: "Tensor") -> None:
    import torch
    import torch.distributed as dist

    for piece in flat.split(_PIECE):
        parts = [torch.empty_like(piece) for _ in range(group.size)]
        dist.all_gather(parts, piece, group=group.tensors if piece.is_cuda else None)
        piece.copy_(parts[0])
        for part in parts[1:]:
            piece.add_(part)


@contextlib.contextmanager
def explained(group: RunGroup) -> Iterator[None]:
    """Say that the processes ended together, where an exchange fails."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        # Memory that runs out here too: the others are in this exchange and cannot begin again.
        raise gone(group) from error


def gone(group: RunGroup) -> RankError:
    """What is said where another process is not there any more."""
    return RankError(
        f"another of the {group.size} processes of this run ended, or did not answer within "
        f"{group.timeout:g} seconds ({TIMEOUT} sets how long), so all end; nothing is written"
    )


def _check_together(group: RunGroup, name: str, exchanges: Sequence[tuple[int, str]]) -> None:
    if any(one != (group.count, name) for one in exchanges):
        listed = ", ".join(f"{what!r} ({count})" for count, what in exchanges)
        raise RankError(
            f"the {group.size} processes of this run came apart: they exchange {listed}; nothing "
            "is written; use machines of one kind, or one process"
        )
