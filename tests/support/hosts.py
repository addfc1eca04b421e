"""Tools that call us, as tests find them: installed and loaded, or a skip that says why not."""

import importlib
import importlib.util
import warnings
from typing import Any

import pytest


def load(tool: str, adapter: str) -> Any:
    """Module `integrations.<adapter>`, or skip the calling test module.

    Args:
        tool: what has to be installed, as it is imported.
        adapter: module below `integrations`.
    """
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: make integrations", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tool and what it imports, not of ours
        return importlib.import_module(f"integrations.{adapter}")
