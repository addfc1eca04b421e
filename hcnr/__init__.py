"""hcnr: training-free repair of fine-tuned language models that forgot how to say "I don't know".

The whole public Python API is listed in `__all__`. Importing it loads torch, but neither
transformers nor triton: those come with the first call that needs them.
"""

from hcnr._version import __version__
from hcnr.config import RestoreConfig
from hcnr.errors import HcnrError
from hcnr.neuron_fisher import NeuronFisher
from hcnr.restore import measure, restore
from hcnr.selection import Selection, select
from hcnr.statistics import Statistics

__all__ = [
    "HcnrError",
    "NeuronFisher",
    "RestoreConfig",
    "Selection",
    "Statistics",
    "__version__",
    "measure",
    "restore",
    "select",
]
