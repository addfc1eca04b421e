"""The compiled extension, looked up when first asked for; when it is absent, the reason why."""

import functools
import importlib
from types import ModuleType
from typing import NamedTuple


class Native(NamedTuple):
    """The module, or None and the reason."""

    module: ModuleType | None
    reason: str | None


@functools.cache
def native() -> Native:
    """`hcnr_kernels._native`, loaded once."""
    try:
        return Native(importlib.import_module("hcnr_kernels._native"), None)
    except ModuleNotFoundError as error:
        if error.name != "hcnr_kernels._native":
            return Native(None, f"not loadable: {error}")
        return Native(None, "not built: the package was installed without nvcc")
    except ImportError as error:
        return Native(None, f"not loadable: {error}")
