"""hcnr: training-free repair of fine-tuned language models that forgot how to say "I don't know".

The whole public Python API is listed in `__all__`. Importing it loads torch, but neither
transformers, triton nor scikit-learn: those come with the first call that needs them.

`evaluate`, `measure`, `probe`, `restore` and `sweep` are the functions; of the modules of these
names import what is needed by `from`, as in `from hcnr.evaluate.detectors import open_detector`.
"""

from hcnr._version import __version__
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
