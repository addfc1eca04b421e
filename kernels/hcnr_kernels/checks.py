"""What the argument checks of the families share: refusals in one sentence."""

import math
from collections.abc import Sequence
from typing import Literal, NoReturn

import torch
from torch import Tensor

from hcnr_kernels.errors import OperatorError

Axis = Literal["output", "input"]
AXES = ("output", "input")
ACCUMULATORS = (torch.float32,)
FACTORS = (torch.float32, torch.float64)


def refuse(argument: str, expected: str, found: object) -> NoReturn:
    """Raise the one sentence: the argument, what it must be, what was found."""
    raise OperatorError(f"{argument} must be {expected}, found {found}.")


def describe(tensor: Tensor) -> str:
    """Dtype, shape and device of a tensor, for errors."""
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"


def choice(argument: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not among those allowed."""
    if value not in allowed:
        refuse(argument, "one of " + ", ".join(allowed), repr(value))


def non_negative(argument: str, value: float) -> None:
    """Refuse a number that is negative, NaN or infinite."""
    if not (math.isfinite(value) and value >= 0):
        refuse(argument, "a finite number >= 0", value)


def floating(argument: str, tensor: Tensor, dims: int, layout: str) -> None:
    """Refuse what is not floating-point or has another number of dimensions."""
    if tensor.dim() != dims or not tensor.dtype.is_floating_point:
        refuse(argument, f"a floating-point tensor {layout}", describe(tensor))


def typed(argument: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Refuse another dtype."""
    if tensor.dtype not in dtypes:
        refuse(argument, " or ".join(str(dtype) for dtype in dtypes), describe(tensor))


def shaped(argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuse another shape."""
    if tensor.dim() != len(shape) or any(
        got != want for got, want in zip(tensor.shape, shape, strict=True)
    ):
        refuse(argument, f"of shape {tuple(shape)}", describe(tensor))


def beside(argument: str, tensor: Tensor, other: Tensor) -> None:
    """Refuse a tensor on another device."""
    if tensor.device != other.device:
        refuse(argument, f"on {other.device}", describe(tensor))


def neurons(mask: Tensor, matrix: Tensor, axis: str) -> None:
    """Refuse a mask that does not choose neurons of `matrix` along `axis`."""
    choice("axis", axis, AXES)
    if mask.dtype != torch.bool:
        refuse("mask", "a bool tensor", describe(mask))
    shaped("mask", mask, (matrix.shape[0 if axis == "output" else 1],))
    beside("mask", mask, matrix)


def pair(base: Tensor, tuned: Tensor) -> None:
    """Refuse base and tuned weights that do not belong together."""
    floating("base", base, 2, "[out, in]")
    floating("tuned", tuned, 2, "[out, in]")
    shaped("tuned", tuned, base.shape)
    beside("tuned", tuned, base)


def damping_and_blocks(damping: float, block_size: int | None) -> None:
    """Refuse a damping or a block size that is out of range."""
    non_negative("damping", damping)
    if block_size is not None and block_size < 1:
        refuse("block_size", "None or >= 1", block_size)
