"""Starting a Triton kernel: on the tensors' device and current stream, or noted down instead.

Importing this module does not import Triton.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.tiles import Tile

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes the Triton kernels read; tensors of any other run on the vectorised torch code."""


class Launch(NamedTuple):
    """One launch as it would have happened.

    Attributes:
        kernel: The `@triton.jit` function.
        grid: Programs, one number.
        arguments: Every parameter of the kernel by name, constants included.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
    """

    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    num_warps: int
    num_stages: int


class Recorder(NamedTuple):
    """Launches noted down for a chip of compute capability `capability` (90 is 9.0)."""

    capability: int
    launches: list[Launch]


_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextlib.contextmanager
def recording(capability: int) -> Iterator[list[Launch]]:
    """Inside, kernels are chosen for `capability` and noted down, not run.

    The host code of an operator then works on `meta` tensors, so that the launches of any shape
    can be listed on any machine.
    """
    recorder = Recorder(capability, [])
    token = _RECORDER.set(recorder)
    try:
        yield recorder.launches
    finally:
        _RECORDER.reset(token)


def launch(kernel: Any, programs: int, tile: Tile, **arguments: Any) -> None:
    """Start `programs` programs of `kernel`; none at all is no launch.

    Args:
        kernel: A `@triton.jit` function.
        programs: Size of the one-dimensional grid.
        tile: Supplies `num_warps` and `num_stages`; its sizes are among `arguments`.
        arguments: Every parameter of the kernel by name.
    """
    if programs == 0:
        return
    recorder = _RECORDER.get()
    if recorder is not None:
        recorded = Launch(kernel, programs, arguments, tile.num_warps, tile.num_stages)
        recorder.launches.append(recorded)
        return
    # Fused multiply-adds are Triton's default so far; 3.9 warns when they are not asked for.
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    kernel[(programs,)](**arguments, **options)


@functools.cache
def _device_capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def capability(device: torch.device) -> int:
    """Compute capability of the chip that a launch on `device` is chosen for; 90 is 9.0.

    Tensors that are on no GPU are interpreted, for which any will do: 90.
    """
    recorder = _RECORDER.get()
    if recorder is not None:
        return recorder.capability
    if device.type != "cuda":
        return 90
    return _device_capability(torch.cuda.current_device() if device.index is None else device.index)


def interpreting() -> bool:
    """Whether `TRITON_INTERPRET=1` sends CPU tensors to the Triton kernels."""
    asked = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    return asked and missing() is None


OLDEST = (3, 6)
"""The oldest Triton that the kernels have been compiled with."""


@functools.cache
def missing() -> str | None:
    """Why Triton cannot be used; None when it can. Does not import it."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None  # some builds go by another name
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        return f"triton {version} is older than {OLDEST[0]}.{OLDEST[1]}"
    return None


def whole_vectors(*matrices: torch.Tensor) -> bool:
    """`tiles.whole_vectors` of every matrix; a meta tensor starts where the allocator would."""
    return all(
        tiles.whole_vectors(
            one.shape[1],
            one.stride(),
            int(one.storage_offset()) * one.element_size() if one.is_meta else one.data_ptr(),
        )
        for one in matrices
    )
