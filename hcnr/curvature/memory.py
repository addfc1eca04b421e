"""Passes that are begun again with less where memory runs out, and what is loaded before them."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

from hcnr.data.tokens import TokenizedSet
from hcnr.errors import ModelError
from hcnr.models.device_memory import GIB, out_of_memory
from hcnr_kernels import fisher_input_, fisher_output_, gram_

T = TypeVar("T")
WARM_WIDTH = 64


def shrinking(
    run: Callable[[int], T], token_budget: int, data: TokenizedSet, *, held: int = 0
) -> T:
    """Call `run` with the budget; halve it and start over while memory runs out.

    The longest micro-batch comes first, so what is thrown away is usually that one alone.

    Args:
        run: called with padded tokens of a micro-batch.
        token_budget: to begin with.
        data: what is run.
        held: bytes that `run` sums up beside the model.
    """
    longest = max(data.lengths)
    while True:
        try:
            return run(token_budget)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if token_budget <= longest:
                beside, fewer = "", ""
                if held:
                    beside = f" beside the model and {held / GIB:.3g} GiB of curvature"
                    fewer = "fewer matrices (--targets, --ignore), --axis input, "
                raise ModelError(
                    f"a single sample of {longest} tokens does not fit in memory{beside}; use "
                    f"{fewer}--gradient-checkpointing, a smaller --max-length, --dtype bfloat16 or "
                    "a smaller --memory-budget"
                ) from error
        token_budget = max(token_budget // 2, longest)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@functools.cache
def warm_up(device: torch.device, dtype: torch.dtype, tokens: int) -> None:
    """Load what a first backward would load at the peak of memory, with inputs of a few kilobytes.

    Once per process for each set of arguments.

    Triton's modules of the operators that passes feed, and the library handle with its workspace
    of the thread that runs backward: torch could serve neither from what it has cached.

    Args:
        device: of the model.
        dtype: of its weights.
        tokens: of the longest sample, which decides the kernels' variant.
    """
    x = torch.ones(tokens, WARM_WIDTH, device=device, dtype=dtype, requires_grad=True)
    (x[:1] @ torch.ones(WARM_WIDTH, 1, device=device, dtype=dtype)).sum().backward()
    rows = x.detach()
    offsets = torch.tensor([0, tokens], dtype=torch.int32, device=device)
    sums = torch.zeros(WARM_WIDTH, device=device)
    for score in (fisher_output_, fisher_input_):
        score(sums, rows, rows, offsets, max_seqlen=tokens)
    gram_(torch.zeros(WARM_WIDTH, WARM_WIDTH, device=device), rows)
