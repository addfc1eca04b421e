"""How the processes of a run meet, end together, and which of them says why."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any, NamedTuple

from hcnr.errors import ConfigError, HcnrError, RankError
from hcnr.output import current as asked_output
from hcnr.ranks.exchange import explained, gone
from hcnr.ranks.group import RunGroup, sharing
from hcnr.ranks.launcher import TIMEOUT, Launched, asked, first_here

_POLL, _FAREWELL = 0.1, 30.0
_PATIENCE = 15.0
"""Seconds of waiting for the others after which it is said that they are waited for."""
_speaking: RunGroup | None = None


def speaks() -> bool:
    """Whether this process says why the run ended: the first that asks, and it alone.

    Before the processes have met, the first of every machine: what is wrong may be so on one only.
    """
    if _speaking is None:
        return first_here()
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
    if asked() == 1:
        yield
        return
    group = _joined(device)
    with sharing(group), contextlib.ExitStack() as stack:
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


class Seat(NamedTuple):
    """Where a process computes.

    Attributes:
        host: name of its machine.
        local: its number there.
        gpus: how many GPUs torch sees there.
        gpu: which one it takes, by what no other GPU is called; None for the CPU.
    """

    host: str
    local: int
    gpus: int
    gpu: str | None

    @classmethod
    def of(cls, local: int, device: str) -> "Seat":
        """The seat of the process `local`, by the setting `device`."""
        import torch

        host = socket.gethostname()
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device == "cpu" or (device == "auto" and gpus == 0):
            return cls(host, local, gpus, None)
        if local >= gpus:
            return cls(host, local, gpus, "")
        # Containers of one machine have names of their own.
        uuid = getattr(torch.cuda.get_device_properties(local), "uuid", None)
        return cls(host, local, gpus, f"{host} {local}" if uuid is None else str(uuid))


def check_seats(seats: Sequence[Seat]) -> None:
    """Refuse GPUs that are not there, that two processes would take, or that some would not.

    Raises:
        ConfigError: naming the first process.
    """
    taken: dict[str, int] = {}
    for rank, seat in enumerate(seats):
        if seat.gpu == "":
            raise ConfigError(
                f"process {seat.local} of the machine {seat.host} has no GPU of its own, torch "
                f"sees {seat.gpus or 'none'}; start as many processes as there are GPUs, or use "
                "--device cpu"
            )
        if (seat.gpu is None) != (seats[0].gpu is None):
            device = "the CPU" if seat.gpu is None else "a GPU"
            raise ConfigError(
                f"process {rank} would compute on {device} of {seat.host} and process 0 not; use "
                "machines of one kind, or --device cpu"
            )
        if seat.gpu is not None and (other := taken.setdefault(seat.gpu, rank)) != rank:
            raise ConfigError(
                f"processes {other} and {rank} would both take GPU {seat.local} of {seat.host}; "
                "LOCAL_RANK tells them apart, which torchrun sets"
            )


def _joined(device: str) -> RunGroup:
    """Meet the other processes."""
    global _speaking
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, count, local, timeout = Launched.read()
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(
            f"device is {device!r} in {count} processes, which would all use that one; use auto, "
            "cuda or cpu"
        )
    seat, limit = Seat.of(local, device), timedelta(seconds=timeout)
    try:
        with _patience(count):
            store, _, _ = next(iter(rendezvous("env://", rank, count, timeout=limit)))
            group = RunGroup(rank, count, PrefixStore("hcnr-run", store), timeout)
            _speaking = group
            dist.init_process_group(
                "gloo", store=PrefixStore("hcnr", store), rank=rank, world_size=count,
                timeout=limit,
            )  # fmt: skip
        seats: list[Any] = [None] * count
        with explained(group):
            dist.all_gather_object(seats, seat)
        check_seats(seats)
        if seat.gpu is not None:
            torch.cuda.set_device(local)
            group.tensors = dist.new_group(backend="nccl", timeout=limit)
    except HcnrError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise RankError(
            f"the {count} processes of this run did not meet within {timeout:g} seconds "
            f"({str(error).splitlines()[0]}); check that all were started and reach MASTER_ADDR"
        ) from error
    return group


@contextlib.contextmanager
def _patience(count: int) -> Iterator[None]:
    """Say whom is waited for, once it takes long: a cluster may name processes that nobody starts.

    Args:
        count: processes that shall meet.
    """

    def say() -> None:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        print(
            f"note: WORLD_SIZE is {count}, so {count} processes are waited for at {address} "
            f"({TIMEOUT} sets how long); for a run in this process alone unset WORLD_SIZE",
            file=sys.stderr,
        )

    timer = threading.Timer(_PATIENCE, say)
    timer.daemon = True
    if first_here() and not asked_output().quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _leave(group: RunGroup) -> None:
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
            raise gone(group) from error
    dist.destroy_process_group()


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
