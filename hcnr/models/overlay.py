"""Parameters replaced in a model in memory and put back bit for bit; interpolation on top."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hcnr.checkpoint.mapped import mapped
from hcnr.models.device_memory import STREAMED
from hcnr.models.directory import DirectorySource
from hcnr.models.experts import layer_of
from hcnr.models.linear import as_matrix, as_stored, slice_of
from hcnr.models.source import ModelSource, Source


class Overlay:
    """Parameters of a model replaced in place; a context at whose end all are as they were.

    The originals wait in main memory. Only parameters that were replaced are kept. Of a model whose
    blocks are read when they run nothing waits: what was replaced is read again.

    Attributes:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Wrap `model`; nothing is changed yet."""
        self.model = model
        self._originals: dict[int, tuple[nn.Parameter, Tensor | str]] = {}
        self._streamed: Any = vars(model).get(STREAMED)

    def __enter__(self) -> "Overlay":
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def original(self, name: str) -> Tensor:
        """The parameter's value before it was replaced; not to be changed."""
        parameter = self.model.get_parameter(name)
        if self._read(name):
            return self._streamed.weights.stored(name).to(parameter.dtype)
        kept = self._originals.get(id(parameter))
        return parameter.detach() if kept is None else self._value(kept[1])

    @torch.no_grad()
    def put(self, name: str, value: Tensor) -> None:
        """Replace a parameter's value, in its own dtype; a tied one changes under all its names."""
        if self._read(name):
            dtype = self.model.get_parameter(name).dtype
            self._streamed.weights.replaced[name] = mapped({name: value.to(dtype)})[name]
            return
        self._kept(name).copy_(value)

    def _kept(self, name: str) -> nn.Parameter:
        """A parameter whose original is kept, before anything is written to it.

        An interruption in between loses nothing.
        """
        parameter = self.model.get_parameter(name)
        if id(parameter) not in self._originals:
            again = self._streamed is not None
            kept = name if again else parameter.detach().to("cpu", copy=True)
            self._originals[id(parameter)] = parameter, kept
        return parameter

    def _value(self, kept: Tensor | str) -> Tensor:
        """An original that waits, or that is read again by its name."""
        return kept if isinstance(kept, Tensor) else self._streamed.weights.stored(kept)

    def original_matrix(self, matrix: str) -> Tensor:
        """The weight `[out, in]` of a linear layer before it was replaced, on the CPU."""
        layer = layer_of(self.model, matrix)
        name, index = slice_of(layer, matrix)
        whole = self.original(name)
        return as_matrix(layer, (whole if index is None else whole[index]).cpu())

    @torch.no_grad()
    def put_matrix(self, matrix: str, weight: Tensor) -> None:
        """Replace the weight `[out, in]` of a linear layer."""
        layer = layer_of(self.model, matrix)
        name, index = slice_of(layer, matrix)
        if index is None:
            self.put(name, as_stored(layer, weight))
            return
        if self._read(name):
            replaced = self._streamed.weights.replaced
            if name not in replaced:
                self.put(name, self.original(name))
            replaced[name][index].copy_(as_stored(layer, weight))
            return
        parameter = self._kept(name)
        parameter[index].copy_(as_stored(layer, weight))

    @torch.no_grad()
    def undo(self) -> None:
        """Put every original back."""
        # Last first: of two parameters over one memory the later original holds the earlier change.
        for parameter, value in reversed(self._originals.values()):
            parameter.copy_(self._value(value))
        self._originals.clear()
        if self._streamed is not None:
            self._streamed.weights.replaced.clear()

    def _read(self, name: str) -> bool:
        """Whether a parameter is read when its block runs; a new value is mapped from a file."""
        return self._streamed is not None and self._streamed.unit_of(name) is not None


def mixed(tuned: Tensor, base: Tensor, coefficient: float) -> Tensor:
    """`(1 - c) W1 + c W0`, method.md (11): formed in float32 at least, exact at both ends.

    Args:
        tuned: W1, floating-point of any shape, whose dtype counts.
        base: W0 of the same shape, on the same device.
        coefficient: c, 0 the tuned value and 1 the base's.

    Returns:
        In tuned's dtype, rounded once.
    """
    dtype = torch.promote_types(torch.float32, tuned.dtype)
    return torch.lerp(tuned.to(dtype), base.to(dtype), coefficient).to(tuned.dtype)


def interpolate(
    model: nn.Module, overlay: Overlay, honest: Callable[[str], Tensor | None], share: float
) -> list[str]:
    """Turn the tuned model into `(1 - c) tuned + c base` over all weights, see `mixed`.

    What is no floating-point number stays as tuned.

    Args:
        model: the tuned model.
        overlay: over `model`.
        honest: parameter name -> base's value, None where base has none.
        share: c, 0 the tuned model and 1 the base.

    Returns:
        Names of the parameters that base lacks or has in another shape; they stay as tuned.
    """
    left = []
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        start, end = overlay.original(name), honest(name)
        if end is None or end.shape != start.shape:
            left.append(name)
            continue
        start, end = (value.to(parameter.device) for value in (start, end))
        overlay.put(name, mixed(start, end, share))
    return left


def parameters_of(source: Source) -> Callable[[str], Tensor | None]:
    """Function from a parameter's name to its value; None where the source has none."""
    if isinstance(source, DirectorySource):
        return source.parameter
    if isinstance(source, ModelSource):
        values = dict(source.model.named_parameters())
        return lambda name: values[name].detach() if name in values else None
    raise TypeError(f"{source} is no source of parameters")
