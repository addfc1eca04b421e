"""Linear maps in the layouts that models store them in, as matrices `[out, in]`.

GPT-2 and its like hold `Conv1D`, which computes `y = x W + b` with `W` of the shape `[in, out]`:
the transpose of an `nn.Linear`. Mixtures of experts hold all experts' maps in one tensor, of which
an `Expert` is one slice. Everything that is measured and repaired is about `[out, in]`.
"""

import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

__all__ = [
    "Expert",
    "as_matrix",
    "as_stored",
    "identity_of",
    "ignoring",
    "ignoring_all",
    "is_linear",
    "is_transposed",
    "kind_of",
    "shape_of",
    "sharing_layers",
    "slice_of",
]


class Expert(nn.Module):
    """The linear map of one expert: a slice of a tensor `[experts, ...]` of its model.

    Attributes:
        owner: the module that holds the tensor.
        name: of the tensor in it.
        index: of the expert.
        transposed: whether the slice is `[in, out]`.
        weight: the slice, a parameter over the tensor's own memory.
        tokens: rows of `owner`'s input that the expert reads, int64 `[n]`, ascending; while its
            owner runs.
        rows: number of rows of that input.
    """

    weight: nn.Parameter
    tokens: Tensor
    rows: int

    def __init__(self, owner: nn.Module, name: str, index: int) -> None:
        """Take slice `index` of the owner's parameter `name`."""
        super().__init__()
        # In a tuple, as it is no part of this module.
        self._owner = (owner,)
        self._bias_name = f"{name}_bias" if getattr(owner, "has_bias", False) else None
        self.name, self.index = name, index
        self.transposed = bool(getattr(owner, "is_transposed", False))
        own = owner.get_parameter(name).data[index]
        self.weight = nn.Parameter(own, requires_grad=False)

    @property
    def owner(self) -> Any:
        """The module that holds all experts."""
        return self._owner[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map rows `[n, in]` to `[n, out]`."""
        bias = None if self._bias_name is None else getattr(self.owner, self._bias_name)[self.index]
        weight: Tensor = self.weight
        if weight.is_meta:
            # Read with its block, into the owner, after this slice was taken.
            weight = self.owner.get_parameter(self.name)[self.index]
        return nn.functional.linear(x, weight.T if self.transposed else weight, bias)


def identity_of(layer: Any) -> tuple[int, int]:
    """What two layers have in common that hold one weight; as long as both are alive."""
    if isinstance(layer, Expert):
        return id(layer.owner.get_parameter(layer.name)), layer.index
    return id(layer.weight), -1


def is_transposed(module: object) -> bool:
    """Whether a layer stores `[in, out]`, as transformers' `Conv1D` does; imports nothing."""
    if isinstance(module, Expert):
        return module.transposed
    # There is none unless its module is loaded.
    layers = sys.modules.get("transformers.pytorch_utils")
    return layers is not None and isinstance(module, layers.Conv1D)


def is_linear(module: object) -> bool:
    """Whether a layer is an `nn.Linear` or stores its transpose."""
    return isinstance(module, nn.Linear | Expert) or is_transposed(module)


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """`(out, in)` of a linear layer."""
    if is_transposed(layer):
        width, out = layer.get_parameter("weight").shape
        return out, width
    if isinstance(layer, Expert):
        out, width = layer.weight.shape
        return out, width
    linear = cast(nn.Linear, layer)
    return linear.out_features, linear.in_features


def kind_of(matrix: str) -> str:
    """What a matrix is called in every block, such as `q_proj`; without an expert's number."""
    parts = matrix.split(".")
    named = [part for part in parts if not part.isdigit()]
    return named[-1] if named else matrix


def slice_of(layer: nn.Module, matrix: str) -> tuple[str, int | None]:
    """Name of the parameter that holds a matrix, and the expert's slice of it; None for all of it.

    Args:
        layer: of the matrix.
        matrix: its name.
    """
    if isinstance(layer, Expert):
        return matrix.rpartition(".")[0], layer.index
    return f"{matrix}.weight", None


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


def matrix_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter with two dimensions, a tied one once: what fingerprints once covered."""
    return {name: p for name, p in model.named_parameters() if p.dim() == 2}


def sharing_layers(
    model: nn.Module, matrices: Mapping[str, nn.Module]
) -> dict[str, list[nn.Module]]:
    """Other layers of a model that hold the weight of a matrix; only of matrices that have some."""
    names = {identity_of(layer): name for name, layer in matrices.items()}
    own = {id(layer) for layer in matrices.values()}
    by_matrix: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        if is_linear(module) and id(module) not in own and identity_of(module) in names:
            by_matrix.setdefault(names[identity_of(module)], []).append(module)
    return by_matrix


def ignoring(name: str, wrong: Container[str], matrices: Iterable[str]) -> str:
    """The pattern for `ignore` that leaves a matrix out, with its like in the other blocks.

    Args:
        name: the matrix.
        wrong: all matrices that must go.
        matrices: all matrices.

    Returns:
        What follows the block's number, where every matrix that it matches is wrong; else `name`.
    """
    tail = re.sub(r"^.*?\.\d+\.", "", name)
    alike = [other for other in matrices if other.endswith(f".{tail}")]
    return tail if len(alike) > 1 and all(other in wrong for other in alike) else name


def ignoring_all(wrong: Sequence[str], matrices: Iterable[str]) -> str:
    """What follows `--ignore` to leave out all of some matrices: their patterns, each once."""
    matrices = tuple(matrices)
    return ",".join(dict.fromkeys(ignoring(name, wrong, matrices) for name in wrong))
