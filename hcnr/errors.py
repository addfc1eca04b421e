"""Every error that hcnr raises on purpose: one sentence with what was found and what to do."""

from hcnr_kernels.errors import FactorizationError, HcnrError, OperatorError

__all__ = [
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
]


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
