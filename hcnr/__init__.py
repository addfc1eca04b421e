"""hcnr: training-free repair of fine-tuned language models that forgot how to say "I don't know".

The whole public Python API is listed in `__all__`. Importing it loads nothing heavy: torch,
transformers and the rest come with the first name or call that needs them.

`evaluate`, `measure`, `probe`, `restore` and `sweep` are the functions; of the modules of these
names import what is needed by `from`, as in `from hcnr.evaluate.detectors import open_detector`.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hcnr._version import __version__

if TYPE_CHECKING:
    from hcnr.config import RestoreConfig
    from hcnr.errors import HcnrError
    from hcnr.evaluate import evaluate
    from hcnr.front import Scores
    from hcnr.grid import Grid
    from hcnr.neuron_fisher import NeuronFisher
    from hcnr.probe import probe
    from hcnr.restore import measure, restore
    from hcnr.selection import Selection, select
    from hcnr.statistics import Statistics
    from hcnr.sweep import sweep

__all__ = [
    "Grid",
    "HcnrError",
    "NeuronFisher",
    "RestoreConfig",
    "Scores",
    "Selection",
    "Statistics",
    "__version__",
    "evaluate",
    "measure",
    "probe",
    "restore",
    "select",
    "sweep",
]

_HOMES = {
    "Grid": "grid",
    "HcnrError": "errors",
    "NeuronFisher": "neuron_fisher",
    "RestoreConfig": "config",
    "Scores": "front",
    "Selection": "selection",
    "Statistics": "statistics",
    "evaluate": "evaluate",
    "measure": "restore",
    "probe": "probe",
    "restore": "restore",
    "select": "selection",
    "sweep": "sweep",
}
"""Public names and the modules that define them."""


class _Package(ModuleType):
    """A package whose functions keep their names, although modules of it have the same."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule that it has loaded to its name in the package.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """Import a public name, or a module that defines some, when it is first used."""
    if name not in _HOMES and name in _HOMES.values():
        return importlib.import_module(f"hcnr.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'hcnr' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hcnr.{_HOMES[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
