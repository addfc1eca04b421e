"""Tools that call us, as tests find them: installed and loaded, or a skip that says why not."""

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import pytest


def load(tool: str, adapter: str) -> Any:
    """Module `integrations.<adapter>`, or skip the calling test module.

    Args:
        tool: what has to be installed, as it is imported.
        adapter: module below `integrations`.
    """
    require(tool)
    with silent():
        return importlib.import_module(f"integrations.{adapter}")


def require(tool: str, target: str = "make integrations") -> None:
    """Skip the calling test or module where a package is not installed; `target` installs it."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: see `{target}`", allow_module_level=True)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, nothing that a tool warns of is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
