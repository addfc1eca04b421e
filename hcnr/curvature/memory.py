"""What happens where memory runs out: it is recognised, and the pass is begun again with less."""

import re
from collections.abc import Callable
from typing import TypeVar

import torch

from hcnr.data.tokens import TokenizedSet
from hcnr.errors import ModelError

T = TypeVar("T")
_NO_MEMORY = ("out of memory", "can't allocate memory", "cudaerrormemoryallocation")
_NO_HANDLE = re.compile(r"CU[A-Z]+_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")
"""A library's handle is made when a thread first multiplies; what fails then is its memory."""


def shrinking(run: Callable[[int], T], token_budget: int, data: TokenizedSet) -> T:
    """Call `run` with the budget; halve it and start over while memory runs out.

    The longest micro-batch comes first, so what is thrown away is usually that one alone.
    """
    longest = max(data.lengths)
    while True:
        try:
            return run(token_budget)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if token_budget <= longest:
                raise ModelError(
                    f"a single sample of {longest} tokens does not fit in memory; use "
                    "--gradient-checkpointing, a smaller --max-length or --dtype bfloat16, and for "
                    "spectral and natural a smaller --memory-budget"
                ) from error
        token_budget = max(token_budget // 2, longest)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on whichever device.

    Only torch's own allocations raise `OutOfMemoryError`. What else takes memory of a GPU says so
    in words: a kernel that is loaded, a library that opens its handle or its workspace.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(sign in text.lower() for sign in _NO_MEMORY) or bool(_NO_HANDLE.search(text))
