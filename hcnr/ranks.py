"""Several processes of one run, as `torchrun` starts them: shares of samples, sums over all.

Every process takes the same steps; passes over samples are shared, and what they sum up is added.
Process 0 leads: it alone prints and writes. Without `started`, as in every call from Python and
in a single process, all of it does nothing: what is asked for comes back as it went in.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from hcnr.errors import ConfigError, HcnrError, RankError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
TIMEOUT = "HCNR_RANKS_TIMEOUT"
"""Environment variable: seconds after which a process that does not answer counts as gone."""
_SECONDS = 1800.0
_PIECE = 1 << 24
"""Elements that are exchanged at once: what adding holds beside its operands, per process."""
_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_POLL, _FAREWELL = 0.1, 30.0


@dataclass
class _Group:
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


_group: _Group | None = None
_speaking: _Group | None = None


def asked() -> int:
    """How many processes a launcher says there are; 1 without one."""
    if any(name not in os.environ for name in _NAMES):
        return 1
    try:
        return max(int(os.environ["WORLD_SIZE"]), 1)
    except ValueError:
        return 1


def size() -> int:
    """How many processes share the passes."""
    return 1 if _group is None else _group.size


def leads() -> bool:
    """Whether this process prints and writes."""
    return _group is None or _group.rank == 0


def first() -> bool:
    """Whether this process is the first by its launcher's word, known before they have met."""
    return asked() == 1 or os.environ["RANK"] == "0"


def refuse_several(command: str) -> None:
    """Refuse a command that one process has to carry out.

    Raises:
        ConfigError: a launcher started several.
    """
    if asked() > 1:
        raise ConfigError(
            f"hcnr {command} was started in {asked()} processes, and only restore and measure "
            "share their work; start it without torchrun"
        )


def speaks() -> bool:
    """Whether this process says why the run ended: the first that asks, and it alone.

    Before the processes have met, the first of every machine: what is wrong may be so on one only.
    """
    if _speaking is None:
        return asked() == 1 or os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        return _speaking.store.add("spoken", 1) == 1
    except (RuntimeError, OSError):
        return True


@contextlib.contextmanager
def started(device: str) -> Iterator[None]:
    """Share passes with the other processes inside, where a launcher started several.

    At a clean end all wait for the one that leads. All but that one print nothing inside.

    Args:
        device: as the setting `device`: `auto` and `cuda` are the GPU of the local rank.

    Raises:
        ConfigError: the devices do not suffice, or the environment is no launcher's.
        RankError: another process ended, or does not answer.
    """
    global _group
    if asked() == 1:
        yield
        return
    group = _joined(device)
    _group = group
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_told_to_end())
            if group.rank:
                nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nothing))
                stack.enter_context(contextlib.redirect_stderr(nothing))
                # Handlers hold the stream that was there before.
                stack.callback(logging.disable, logging.root.manager.disable)
                logging.disable(logging.CRITICAL)
            yield
            _leave(group)
    finally:
        _group = None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Share nothing inside: the passes of this process are its own."""
    global _group
    kept, _group = _group, None
    try:
        yield
    finally:
        _group = kept


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


def owns(place: int) -> bool:
    """Whether this process does the `place`-th of some pieces of work."""
    return _group is None or place % _group.size == _group.rank


def gathered(name: str, value: T) -> list[T]:
    """The value of every process, in the order of ranks.

    Args:
        name: of the exchange; that of every process must be the same.
        value: can be pickled.

    Raises:
        RankError: another process ended or does not answer, or they exchange different things.
    """
    if _group is None:
        return [value]
    import torch.distributed as dist

    _group.count += 1
    found: list[Any] = [None] * _group.size
    with _explained(_group):
        dist.all_gather_object(found, (_group.count, name, value))
    _check_together(_group, name, [one[:2] for one in found])
    return [one[2] for one in found]


def decided(name: str, value: T) -> T:
    """Process 0's value, in all of them; arguments and errors as of `gathered`."""
    return value if _group is None else gathered(name, value if leads() else None)[0]  # pyright: ignore[reportReturnType]


def handed_out(name: str, place: int, data: bytes | None) -> bytes:
    """What the owner of the `place`-th piece of work made of it, in all processes.

    Args:
        name: of the exchange.
        place: of the piece.
        data: in the owner what it made; None in others.

    Raises:
        RankError: as `gathered`.
    """
    if _group is None:
        assert data is not None
        return data
    import torch
    import torch.distributed as dist

    owner = place % _group.size
    nbytes = gathered(name, None if data is None else len(data))[owner]
    assert nbytes is not None
    with _explained(_group):
        if data is None:
            whole = torch.empty(nbytes, dtype=torch.uint8)
        else:
            whole = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        for piece in whole.split(_PIECE):
            dist.broadcast(piece, src=owner)
    return data if data is not None else whole.numpy().tobytes()


def agreed(error: HcnrError | None) -> None:
    """Raise in every process what one of them found wrong.

    Raises:
        HcnrError: that of the lowest rank that has one.
    """
    first = next((one for one in gathered("errors", error) if one is not None), None)
    if first is not None:
        raise error or first


def refuse_different(name: str, value: Any, what: str) -> None:
    """Refuse processes that see different inputs.

    Raises:
        ConfigError: naming the first process that does.
    """
    found = gathered(name, value)
    for rank, one in enumerate(found):
        if one != found[0]:
            raise ConfigError(
                f"process {rank} sees other {what} than process 0; give all the same, at the same "
                "places on every machine"
            )


def merged(name: str, values: Mapping[K, T]) -> dict[K, T]:
    """Entries of all processes; of those that several have, the lowest rank's."""
    if _group is None:
        return dict(values)
    found: dict[K, T] = {}
    for one in gathered(name, dict(values)):
        found = {**one, **found}
    return found


def counted(name: str, values: Mapping[K, int]) -> dict[K, int]:
    """Integers added over all processes; what one lacks counts as 0 there."""
    if _group is None:
        return dict(values)
    found: dict[K, int] = {}
    for one in gathered(name, dict(values)):
        for key, value in one.items():
            found[key] = found.get(key, 0) + value
    return found


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
    if _group is None:
        return dict(tensors)
    import torch

    layouts = gathered(name, {key: (tuple(one.shape), one.dtype) for key, one in tensors.items()})
    union: dict[K, Any] = {}
    for one in layouts:
        for key, layout in one.items():
            if union.setdefault(key, layout) != layout:
                raise RankError(f"the processes of this run have different shapes of {key}")
    found = {}
    for key, (shape, dtype) in union.items():
        own = tensors.get(key)
        if own is None:
            own = torch.zeros(shape, dtype=dtype, device=device)
        with _explained(_group):
            _add(_group, own.view(-1))
        found[key] = own
    return found


def _add(group: _Group, flat: "Tensor") -> None:
    import torch
    import torch.distributed as dist

    for piece in flat.split(_PIECE):
        parts = [torch.empty_like(piece) for _ in range(group.size)]
        dist.all_gather(parts, piece, group=group.tensors if piece.is_cuda else None)
        piece.copy_(parts[0])
        for one in parts[1:]:
            piece.add_(one)


def _joined(device: str) -> _Group:
    """Meet the other processes."""
    global _speaking
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local, timeout = int(os.environ.get("LOCAL_RANK", "0")), _timeout()
    except ValueError as error:
        raise ConfigError(
            f"RANK, WORLD_SIZE, LOCAL_RANK or {TIMEOUT} is no number ({error}); start several "
            "processes with torchrun"
        ) from error
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(
            f"device is {device!r} in {count} processes, which would all use that one; use auto, "
            "cuda or cpu"
        )
    limit = timedelta(seconds=timeout)
    try:
        store, _, _ = next(iter(rendezvous("env://", rank, count, timeout=limit)))
        group = _Group(rank, count, PrefixStore("hcnr-run", store), timeout)
        _speaking = group
        if on_gpu and local >= gpus:
            raise ConfigError(
                f"process {local} of this machine has no GPU of its own, torch sees "
                f"{gpus or 'none'}; start as many processes as there are GPUs, or use --device cpu"
            )
        dist.init_process_group(
            "gloo", store=PrefixStore("hcnr", store), rank=rank, world_size=count,
            timeout=limit,
        )  # fmt: skip
        if on_gpu:
            torch.cuda.set_device(local)
            group.tensors = dist.new_group(backend="nccl", timeout=limit)
    except ConfigError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise RankError(
            f"the {count} processes of this run did not meet within {timeout:g} seconds "
            f"({str(error).splitlines()[0]}); check that all were started and reach MASTER_ADDR"
        ) from error
    return group


def _timeout() -> float:
    seconds = float(os.environ.get(TIMEOUT, _SECONDS))
    if not 0 < seconds < 1e7:
        raise ValueError(f"{seconds:g} seconds")
    return seconds


def _leave(group: _Group) -> None:
    """Wait until process 0 is done, however long it writes; nobody takes the store away before."""
    import torch.distributed as dist

    try:
        if group.rank == 0:
            # The result is in its place: whatever becomes of the others, this is no failure.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            group.store.set("done", "1")
            end = time.monotonic() + _FAREWELL
            while group.store.add("left", 0) < group.size - 1 and time.monotonic() < end:
                time.sleep(_POLL)
        else:
            while not group.store.check(["done"]):
                time.sleep(_POLL)
            group.store.add("left", 1)
    except (RuntimeError, OSError) as error:
        if group.rank:
            raise _gone(group) from error
    dist.destroy_process_group()


@contextlib.contextmanager
def _explained(group: _Group) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        # Memory that runs out here too: the others are in this exchange and cannot begin again.
        raise _gone(group) from error


def _gone(group: _Group) -> RankError:
    return RankError(
        f"another of the {group.size} processes of this run ended, or did not answer within "
        f"{group.timeout:g} seconds ({TIMEOUT} sets how long), so all end; nothing is written"
    )


def _check_together(group: _Group, name: str, found: Sequence[tuple[int, str]]) -> None:
    if any(one != (group.count, name) for one in found):
        told = ", ".join(f"{what!r} ({count})" for count, what in found)
        raise RankError(
            f"the {group.size} processes of this run came apart: they exchange {told}; nothing is "
            "written; use machines of one kind, or one process"
        )


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM as one sentence: a launcher sends it to all when one process ended.

    Once this process is on its way out it is not heard any more: what cleans up, and the sentence
    after it, must not be cut short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: FrameType | None) -> None:
        # What a `finally` of the interrupted code is handling.
        if isinstance(sys.exc_info()[1], HcnrError | KeyboardInterrupt):
            return
        raise RankError(
            "another process of this run ended, or the launcher was told to end (signal "
            f"{number}), so all end; nothing is written"
        )

    kept: Any = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        kept = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGTERM, kept)
        sys.stdout.flush()
