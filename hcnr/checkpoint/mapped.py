"""Tensors that do not fit into memory together, in files without a name."""

import contextlib
import os
import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from hcnr.errors import OutputError

K = TypeVar("K", bound=Hashable)


def mapped(tensors: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """The same values, mapped from one temporary file: read as they are used, and let go again.

    The file has no name any more when this returns, and goes with the last of the tensors.

    Args:
        tensors: none of them twice; on any device.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if not tensors:
        return {}
    path: Path | None = None
    try:
        handle, place = tempfile.mkstemp(prefix="hcnr-", suffix=".safetensors")
        os.close(handle)
        path = Path(place)
        values = [tensor.detach().cpu().contiguous() for tensor in tensors.values()]
        save_file({str(number): value for number, value in enumerate(values)}, path)
        del values
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(str(number)) for number, key in enumerate(tensors)}
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"what a run sets aside does not fit into {tempfile.gettempdir()} ({error}); set "
            "TMPDIR to a larger disk, or raise --memory-budget"
        ) from error
    finally:
        # What is mapped stays readable; only Windows keeps the file as long as it is.
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()
