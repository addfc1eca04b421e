"""hcnr: training-free repair of fine-tuned language models that forgot how to say "I don't know".

The whole public Python API is listed in `__all__`. Importing it loads nothing heavy: torch,
transformers and the rest come with the first name or call that needs them.

Modules import only what stands on the same or a lower floor; CONTRIBUTING.md prints the floors.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from hcnr._version import __version__

if TYPE_CHECKING:
    from hcnr.choosing.front import Scores
    from hcnr.config import EvaluateConfig, ProbeConfig, RestoreConfig, SweepConfig
    from hcnr.curvature.fisher import NeuronFisher
    from hcnr.curvature.statistics import Statistics
    from hcnr.detectors.traits import Trait
    from hcnr.errors import HcnrError
    from hcnr.evaluation.endpoints.server import Endpoint
    from hcnr.evaluation.evaluating import evaluate
    from hcnr.evaluation.responses import score_responses
    from hcnr.pipeline.restoring import measure, restore
    from hcnr.probes.probe import probe
    from hcnr.record.writing import read_report
    from hcnr.repair.applying import apply_patch
    from hcnr.repair.selection import Selection, select
    from hcnr.search.grid import Grid
    from hcnr.search.sweep import sweep
    from hcnr.tuning.settings import TuneSettings
    from hcnr.tuning.tuning import tune

__all__ = [
    "Endpoint",
    "EvaluateConfig",
    "Grid",
    "HcnrError",
    "NeuronFisher",
    "ProbeConfig",
    "RestoreConfig",
    "Scores",
    "Selection",
    "Statistics",
    "SweepConfig",
    "Trait",
    "TuneSettings",
    "__version__",
    "apply_patch",
    "evaluate",
    "measure",
    "probe",
    "read_report",
    "restore",
    "score_responses",
    "select",
    "sweep",
    "tune",
]

_HOMES = {
    "Endpoint": "evaluation.endpoints.server",
    "EvaluateConfig": "config",
    "Grid": "search.grid",
    "HcnrError": "errors",
    "NeuronFisher": "curvature.fisher",
    "ProbeConfig": "config",
    "RestoreConfig": "config",
    "Scores": "choosing.front",
    "Selection": "repair.selection",
    "Statistics": "curvature.statistics",
    "SweepConfig": "config",
    "Trait": "detectors.traits",
    "TuneSettings": "tuning.settings",
    "apply_patch": "repair.applying",
    "evaluate": "evaluation.evaluating",
    "measure": "pipeline.restoring",
    "probe": "probes.probe",
    "read_report": "record.writing",
    "restore": "pipeline.restoring",
    "score_responses": "evaluation.responses",
    "select": "repair.selection",
    "sweep": "search.sweep",
    "tune": "tuning.tuning",
}
"""Public names and the modules that define them."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hcnr' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hcnr.{_HOMES[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
