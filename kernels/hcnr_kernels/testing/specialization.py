"""What Triton makes of a launch before it compiles: the types, constants and multiples it looks at.

Importing this module does not import Triton.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.triton.launch import Launch

_TYPES: Mapping[torch.dtype, str] = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "u1",
}


class Specialized(NamedTuple):
    """What Triton compiles once: equal values are the same machine code.

    Attributes:
        kernel: The `@triton.jit` function.
        signature: Name and type of every parameter.
        constants: Name and value of those of type `constexpr`, declared or found to be 1 or None.
        aligned: Names of pointers and integers known to be multiples of 16.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
    """

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    num_warps: int
    num_stages: int

    def chosen(self) -> dict[str, Any]:
        """The constants that the host chose: not the integers that happened to be 1."""
        names = {parameter.name for parameter in self.kernel.params if parameter.is_constexpr}
        return {name: value for name, value in self.constants if name in names or value is None}

    def pointers(self) -> tuple[str, ...]:
        """Dtypes behind the pointers, each once, in order."""
        return tuple(dict.fromkeys(kind[1:] for _, kind in self.signature if kind[0] == "*"))


def specialize(launch: Launch) -> Specialized:
    """Triton's own rules for what becomes part of the compiled kernel; it needs a driver for them.

    A test compares them with Triton's.
    """
    signature: list[tuple[str, str]] = []
    constants: list[tuple[str, Any]] = []
    aligned: list[str] = []
    for parameter in launch.kernel.params:
        name, value = parameter.name, launch.arguments[parameter.name]
        free = not parameter.do_not_specialize
        multiple = False
        is_one = type(value) is int and value == 1
        if parameter.is_constexpr or value is None or (free and is_one):
            kind = "constexpr"
            constants.append((name, value))
        elif isinstance(value, Tensor):
            kind = "*" + _TYPES[value.dtype]
            # A meta tensor has no address, and the allocators give out whole multiples of 16.
            address = value.storage_offset() * value.element_size()
            multiple = (address if value.is_meta else value.data_ptr()) % 16 == 0
        elif isinstance(value, bool):
            kind = "u1"
        elif isinstance(value, int):
            kind = parameter.annotation_type or ("i32" if -(2**31) <= value < 2**31 else "i64")
            multiple = value % 16 == 0
        elif isinstance(value, float):
            kind = parameter.annotation_type or "fp32"
        else:
            raise TypeError(f"{launch.kernel.__name__}: {name} is a {type(value).__name__}")
        signature.append((name, kind))
        if multiple and free and not parameter.do_not_specialize_on_alignment:
            aligned.append(name)
    return Specialized(
        launch.kernel,
        tuple(signature),
        tuple(constants),
        tuple(aligned),
        launch.num_warps,
        launch.num_stages,
    )
