"""Every error that hcnr raises on purpose: one sentence with what was found and what to do."""

import errno
import os
import re

from hcnr_kernels.errors import FactorizationError, HcnrError, OperatorError

__all__ = [
    "NO_ROOM",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FactorizationError",
    "HcnrError",
    "ModelError",
    "OperatorError",
    "OutputError",
    "RankError",
    "StatisticsError",
    "system_error",
]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a system answers that can write no more there: nobody's input is wrong."""
_TOLD = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust tell the system's answer, safetensors among them."""


class ConfigError(HcnrError, ValueError):
    """A configuration key or value is unknown or out of range."""


class DataError(HcnrError, ValueError):
    """A data file or a sample in it cannot be used."""


class CheckpointError(HcnrError, ValueError):
    """A checkpoint is missing, malformed, or does not match its partner."""


class ModelError(HcnrError, ValueError):
    """A model cannot be opened, or none of its matrices can be repaired."""


class OutputError(HcnrError, OSError):
    """An output cannot be written where it was asked for."""


class StatisticsError(HcnrError, ValueError):
    """Statistics are malformed, incomplete, or belong to another pair of checkpoints."""


class RankError(HcnrError):
    """Several processes share a run, and another of them ended, does not answer, or differs."""


def system_error(error: BaseException) -> OSError | None:
    """What the system answered, where an error is or tells that; None where it is another."""
    if isinstance(error, OSError):
        return error
    match = _TOLD.search(str(error))
    return None if match is None else OSError(int(match[1]), os.strerror(int(match[1])))
