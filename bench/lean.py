"""hcnr's modules on a machine without pydantic, which only its settings need."""

import importlib.util
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def settings_available() -> bool:
    return importlib.util.find_spec("pydantic") is not None


def use_without_settings() -> str:
    """Make `hcnr.curvature` importable; says how in one line.

    `hcnr/__init__.py` imports the settings. Without pydantic an empty package of that name stands
    in for it, whose modules are the real ones.
    """
    if settings_available():
        return "hcnr is complete"
    package = types.ModuleType("hcnr")
    package.__path__ = [str(ROOT / "hcnr")]
    sys.modules["hcnr"] = package
    return "pydantic is not installed: hcnr.curvature runs without hcnr's settings"
