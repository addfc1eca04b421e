"""Versions of everything that decides a result."""

import importlib.metadata
import platform

from hcnr._version import __version__

LIBRARIES = (
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "numpy",
    "triton",
    "scikit-learn",
)


def versions() -> dict[str, str]:
    """Versions of hcnr, Python and the libraries that decide a result."""
    found = {"hcnr": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
