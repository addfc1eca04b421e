"""Linear maps in the layouts that models store them in, as matrices `[out, in]`.

GPT-2 and its like hold `Conv1D`, which computes `y = x W + b` with `W` of the shape `[in, out]`:
the transpose of an `nn.Linear`. Everything that is measured and repaired is about `[out, in]`.
"""

import sys
from typing import cast

from torch import Tensor, nn

__all__ = ["as_matrix", "as_stored", "is_linear", "is_transposed", "shape_of"]


def is_transposed(module: object) -> bool:
    """Whether a layer is transformers' `Conv1D`; imports nothing."""
    # There is none unless its module is loaded.
    layers = sys.modules.get("transformers.pytorch_utils")
    return layers is not None and isinstance(module, layers.Conv1D)


def is_linear(module: object) -> bool:
    """Whether a layer is an `nn.Linear` or stores its transpose."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """`(out, in)` of a linear layer."""
    if is_transposed(layer):
        width, out = layer.get_parameter("weight").shape
        return out, width
    linear = cast(nn.Linear, layer)
    return linear.out_features, linear.in_features


def as_matrix(layer: nn.Module, stored: Tensor) -> Tensor:
    """A weight, or anything of its shape, of a linear layer as `[out, in]`, contiguous.

    Args:
        layer: decides the layout; its own weight may be on the meta device.
        stored: in the layer's layout.
    """
    return stored.T.contiguous() if is_transposed(layer) else stored


def as_stored(layer: nn.Module, matrix: Tensor) -> Tensor:
    """The inverse of `as_matrix`: `[out, in]` in the layer's layout, contiguous."""
    return matrix.T.contiguous() if is_transposed(layer) else matrix
