"""`--log-level`: what hcnr and the libraries below it log, on the error stream."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from hcnr.errors import ConfigError

__all__ = ["LEVELS", "log_to_stderr"]

LEVELS = ("debug", "info", "warning", "error")
_LIBRARIES = ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY")
"""Read when these libraries are imported, which is later than this."""


@contextlib.contextmanager
def log_to_stderr(level: str | None) -> Iterator[None]:
    """Log from a level on while the block runs; None changes nothing.

    Raises:
        ConfigError: there is no such level.
    """
    if level is None:
        yield
        return
    if level not in LEVELS:
        raise ConfigError(
            f"log_level is {level!r}, expected one of {', '.join(LEVELS)}; correct --log-level"
        )
    root = logging.getLogger()
    handler, before = logging.StreamHandler(sys.stderr), root.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _LIBRARIES:
        os.environ.setdefault(name, level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
