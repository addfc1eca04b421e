"""What a call would start, counted without a clock: torch's own operations, and Triton's launches.

On meta tensors nothing is computed, so an 8B matrix costs nothing; code that reads values is
counted on small real ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hcnr_kernels.triton.launch import Launch, recording


class Count(NamedTuple):
    """What a call comes to.

    Attributes:
        launches: torch operations that compute or copy, and Triton kernels; views and allocations
            start nothing.
        operations: floating-point operations of products, factorisations and solves; of a Triton
            operator those that it cannot avoid (`hcnr_kernels.testing.costs`).
        nbytes: bytes of the tensors that each launch names, those that it changes twice.
        programs: programs of all Triton launches.
        waits: how often the host asks a device for a value.
    """

    launches: int
    operations: int
    nbytes: int
    programs: int = 0
    waits: int = 0


ALLOCATES = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"}
FREE = ALLOCATES | {"detach", "lift_fresh", "alias", "_unsafe_view", "_reshape_alias"}
WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero"}


def size_of(values: object) -> int:
    """Bytes of the tensors among nested values, each once."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors.values())


def _products(function: Any, args: tuple, kwargs: dict, out: object) -> int:
    name = function.overloadpacket.__name__
    if name == "linalg_cholesky_ex":
        return args[0].numel() * args[0].shape[-1] // 3
    if name == "linalg_solve_triangular":
        return args[1].numel() * args[0].shape[-1]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)  # `addmm_` counts as `addmm`
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


class Counting(TorchDispatchMode):
    """Notes every operation of torch inside."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.operations = self.nbytes = self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        self.waits += name in WAITS
        if name in FREE or name == "_local_scalar_dense":
            return out
        aliases = [one.alias_info for one in func._schema.returns]
        if aliases and all(alias is not None and not alias.is_write for alias in aliases):
            return out  # a view
        self.launches += 1
        inputs = [*args, *kwargs.values()]
        changed = [
            value
            for value, declared in zip(args, func._schema.arguments, strict=False)
            if declared.alias_info is not None and declared.alias_info.is_write
        ]
        held = {id(leaf) for leaf in tree_leaves(inputs)}
        results = [leaf for leaf in tree_leaves(out) if id(leaf) not in held]
        self.nbytes += size_of(inputs) + size_of(changed) + size_of(results)
        self.operations += _products(func, args, kwargs, out)
        return out


def count(
    call: Callable[[], object], *, operations: float | None = None, nbytes: int | None = None
) -> Count:
    """Count what `call` starts, its Triton kernels as chosen for an H100.

    Args:
        call: what would be run.
        operations: those of its Triton kernels, which cannot be counted.
        nbytes: theirs, where they are far fewer than those of the tensors that they name.
    """
    with recording(90) as launches, Counting() as torch_calls:
        call()
    done = torch_calls.operations + int(operations or 0)
    if nbytes is None:
        nbytes = sum(size_of(dict(launch.arguments)) for launch in launches)
    return Count(
        torch_calls.launches + len(launches),
        done,
        torch_calls.nbytes + nbytes,
        sum(launch.grid for launch in launches),
        torch_calls.waits,
    )


def kernels_of(call: Callable[[], object], capability: int) -> list[Launch]:
    """The Triton launches of a call, chosen for a compute capability."""
    with recording(capability) as launches:
        call()
    return launches
