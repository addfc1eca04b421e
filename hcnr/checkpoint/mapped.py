"""Tensors that do not fit into memory together, in files without a name."""

import tempfile
from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from hcnr.checkpoint.copying import WRITE_BYTES
from hcnr.checkpoint.fingerprints import byte_view
from hcnr.errors import OutputError
from hcnr.scratch import scratch_directory

K = TypeVar("K", bound=Hashable)


def mapped(tensors: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """The same values, mapped from temporary files: read as they are used, and let go again.

    The files have no name any more when this returns, and go with their tensors.

    Args:
        tensors: on any device.

    Raises:
        OutputError: a file cannot be written.
    """
    return {key: _mapped(tensor) for key, tensor in tensors.items()}


def _mapped(tensor: Tensor) -> Tensor:
    try:
        # What is mapped stays readable when its name is gone.
        with scratch_directory() as directory:
            path = directory / "tensor.bin"
            left = byte_view(tensor)
            with path.open("xb", buffering=0) as file:
                while left:
                    left = left[file.write(left[:WRITE_BYTES]) :]
            # Shared, so that its pages are the file's, which the kernel takes back where memory is
            # short; nothing writes to it.
            values = torch.from_file(
                str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype
            )
        return values.reshape(tensor.shape)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"what a run sets aside does not fit into {tempfile.gettempdir()} ({error}); set "
            "TMPDIR to a larger disk, or raise --memory-budget"
        ) from error
