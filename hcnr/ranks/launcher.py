"""What a launcher says of the processes that it started, in the environment of each."""

import os
from typing import NamedTuple

from hcnr.errors import ConfigError

TIMEOUT = "HCNR_RANKS_TIMEOUT"
"""Environment variable: seconds after which a process that does not answer counts as gone."""
_SECONDS = 1800.0
_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Launched(NamedTuple):
    """The place of this process among those that were started.

    Attributes:
        rank: from 0, over all machines.
        size: how many processes.
        local: from 0, on this machine.
        timeout: seconds to wait for others.
    """

    rank: int
    size: int
    local: int
    timeout: float

    @classmethod
    def read(cls) -> "Launched":
        """Read the environment.

        Raises:
            ConfigError: it is no launcher's.
        """
        try:
            rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            local, timeout = int(os.environ.get("LOCAL_RANK", "0")), _timeout()
        except ValueError as error:
            raise ConfigError(
                f"RANK, WORLD_SIZE, LOCAL_RANK or {TIMEOUT} is no number ({error}); start several "
                "processes with torchrun"
            ) from error
        if not 0 <= rank < count or local < 0:
            raise ConfigError(
                f"RANK is {rank} of WORLD_SIZE {count} and LOCAL_RANK is {local}; ranks count from "
                "0 up to the number of processes: start several with torchrun"
            )
        return cls(rank, count, local, timeout)


def asked() -> int:
    """How many processes a launcher says there are; 1 without one."""
    if any(name not in os.environ for name in _NAMES):
        return 1
    try:
        return max(int(os.environ["WORLD_SIZE"]), 1)
    except ValueError:
        return 1


def first() -> bool:
    """Whether this process is the first by its launcher's word, known before they have met."""
    return asked() == 1 or os.environ["RANK"] == "0"


def first_here() -> bool:
    """The same of the processes of one machine."""
    return asked() == 1 or os.environ.get("LOCAL_RANK", "0") == "0"


def by_itself() -> str | None:
    """A note where a launcher started several and each runs by itself, as calls from Python do."""
    if asked() == 1:
        return None
    return (
        f"RANK {os.environ['RANK']} of WORLD_SIZE {os.environ['WORLD_SIZE']} is set, and a call "
        "from Python shares nothing with other processes: this one measured everything itself; "
        "torchrun -m hcnr shares the work"
    )


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


def _timeout() -> float:
    seconds = float(os.environ.get(TIMEOUT, _SECONDS))
    if not 0 < seconds < 1e7:
        raise ValueError(f"{seconds:g} seconds")
    return seconds
