"""hcnr: training-free repair of fine-tuned language models that forgot how to say "I don't know".

The whole public Python API is listed in `__all__`; names load on first use, so that
`import hcnr` stays cheap and pulls in neither transformers nor triton.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hcnr._version import __version__

if TYPE_CHECKING:
    from hcnr.config import RestoreConfig
    from hcnr.errors import HcnrError

__all__ = ["HcnrError", "RestoreConfig", "__version__"]

_HOMES = {"HcnrError": "errors", "RestoreConfig": "config"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hcnr' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hcnr.{_HOMES[name]}"), name)
