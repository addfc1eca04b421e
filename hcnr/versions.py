"""Versions of everything that decides a result."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
from pathlib import Path

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
    known = {"hcnr": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


@functools.cache
def code_digest() -> str:
    """SHA-256 of the Python code of hcnr and its kernels: a checkout has one version for long."""
    digest = hashlib.sha256()
    for package in ("hcnr", "hcnr_kernels"):
        spec = importlib.util.find_spec(package)
        for root in map(Path, (spec and spec.submodule_search_locations) or ()):
            for file in sorted(root.rglob("*.py")):
                digest.update(file.relative_to(root).as_posix().encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
