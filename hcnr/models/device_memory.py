"""What happens where a device's memory runs out: it is recognised, and said in one sentence."""

import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from hcnr.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
STREAMED = "hcnr_streamed"
"""Name under which a model carries its `hcnr.models.streamed.opening.Streamed`."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "cudaerrormemoryallocation")
_NO_HANDLE = re.compile(r"CU[A-Z]+_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")
"""A library's handle is made when a thread first multiplies; what fails then is its memory."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device; None where it does not say.

    Main memory that only caches files counts as free, as the kernel says it does; so does what
    torch keeps of a GPU's for itself, which is given back first.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes; its parameters may be elsewhere until they are used."""
    streamed = vars(model).get(STREAMED)
    return next(model.parameters()).device if streamed is None else streamed.device


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on whichever device.

    Only torch's own allocations raise `OutOfMemoryError`. What else takes memory of a GPU says so
    in words: a kernel that is loaded, a library that opens its handle or its workspace.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(sign in text.lower() for sign in _NO_MEMORY) or bool(_NO_HANDLE.search(text))


def move(model: "PreTrainedModel", device: torch.device) -> None:
    """Move a model to a device.

    Raises:
        ModelError: it does not fit there.
    """
    needed = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    try:
        model.to(device)  # pyright: ignore[reportArgumentType] (transformers' own stub)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"the model's {needed / GIB:.3g} GiB of weights do not fit on {device}: read them "
            "block by block with --device-map auto, or use --device cpu, a device with more memory "
            "or --dtype bfloat16"
        ) from error
