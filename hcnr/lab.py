"""The former name of `hcnr.demo`; kept for code that imports it."""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    demo = importlib.import_module("hcnr.demo")
    if name not in demo.__all__:
        raise AttributeError(f"module 'hcnr.lab' has no attribute {name!r}")
    warnings.warn("hcnr.lab is now hcnr.demo; import it from there", FutureWarning, stacklevel=2)
    return getattr(demo, name)
