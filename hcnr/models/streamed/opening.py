"""A model whose blocks are read when they run: opened without weights, hooks of accelerate do."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import PrefixedDataset
from torch import Tensor, nn

from hcnr.errors import CheckpointError, ModelError
from hcnr.models.device_memory import GIB, STREAMED, out_of_memory
from hcnr.models.placed import PlacedCheckpoint
from hcnr.models.streamed.units import Residence
from hcnr.models.targets import transformer_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Loaded = Callable[[str], None]
"""Called with a unit when its weights have been put into the model."""


class StoredWeights(Mapping[str, Tensor]):
    """Parameters by name, each read from the checkpoint when it is asked for, or replaced.

    Attributes:
        replaced: values in place of the stored ones, on the CPU.
    """

    def __init__(self, placed: PlacedCheckpoint, names: Mapping[str, list[str]]) -> None:
        """Read nothing yet; `names` holds all names that a parameter has."""
        self._placed, self._names = placed, names
        self.replaced: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        # A copy lies where torch's allocator puts it: products may round by where operands lie.
        return self.replaced[name].clone() if name in self.replaced else self.stored(name)

    def stored(self, name: str) -> Tensor:
        """The value of the files, in their dtype.

        Raises:
            CheckpointError: there is none.
        """
        for own in self._names[name]:
            value = self._placed.parameter(own)
            if value is not None:
                return value
        directory = self._placed.checkpoint.path
        raise CheckpointError(f"'{directory}' has no tensor {name!r}; save it again")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Streamed:
    """How the blocks of a model get their weights.

    Attributes:
        device: where the model computes.
        weights: of all parameters, by name.
        residence: what stays there.
        watchers: told of every unit that was loaded.
    """

    def __init__(self, device: torch.device, weights: StoredWeights, residence: Residence) -> None:
        """Watch nobody yet."""
        self.device, self.weights, self.residence = device, weights, residence
        self.watchers: list[Loaded] = []

    def unit_of(self, parameter: str) -> str | None:
        """The unit that is read for every use and holds a parameter; None where it stays."""
        return next(
            (unit for unit in self.residence.streamed if parameter.startswith(f"{unit}.")), None
        )


class _UnitHook(AlignDevicesHook):
    """Puts the weights of a unit into it before it runs, and lets them go afterwards.

    In backward a block that is recomputed runs again, and so reads them again.
    """

    def __init__(self, unit: str, module: nn.Module, streamed: Streamed, *, whole: bool) -> None:
        super().__init__(
            execution_device=streamed.device,
            offload=True,
            weights_map=PrefixedDataset(streamed.weights, f"{unit}." if unit else ""),
            place_submodules=whole,
        )
        self._unit, self._streamed = unit, streamed

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        moved = super().pre_forward(module, *args, **kwargs)
        for tell in self._streamed.watchers:
            tell(self._unit)
        return moved


def attached(
    model: "PreTrainedModel",
    placed: PlacedCheckpoint,
    names: Mapping[str, list[str]],
    residence: Residence,
    device: torch.device,
) -> "PreTrainedModel":
    """Put what stays onto the device, and hooks on all other units.

    Args:
        model: of the checkpoint's class, its parameters on the meta device and all apart, its
            buffers on the CPU.
        placed: the files.
        names: parameter -> all names that it has.
        residence: what stays.
        device: where to compute.

    Raises:
        ModelError: what stays does not fit on the device.
        CheckpointError: a file can no longer be read.
    """
    streamed = Streamed(device, StoredWeights(placed, names), residence)
    blocks = f"{transformer_blocks(model)}."
    for unit in residence.sizes:
        module, whole = model.get_submodule(unit), unit.startswith(blocks)
        if unit in residence.resident:
            try:
                _settle(module, unit, streamed, whole=whole)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                kept = residence.held / GIB
                raise ModelError(
                    f"{kept:.3g} GiB of weights do not fit on {device}: give a smaller "
                    "--max-memory, or --device-map disk"
                ) from error
        else:
            add_hook_to_module(module, _UnitHook(unit, module, streamed, whole=whole))
    stored = model.state_dict().keys()
    for name, buffer in list(model.named_buffers()):
        value = placed.parameter(name) if name in stored else None
        owner = model.get_submodule(name.rpartition(".")[0])
        own = buffer if value is None else value.to(buffer.dtype)
        owner._buffers[name.rpartition(".")[2]] = own.to(device)
    vars(model)[STREAMED] = streamed
    return model


@torch.no_grad()
def _settle(module: nn.Module, unit: str, streamed: Streamed, *, whole: bool) -> None:
    """Give a unit its weights for good."""
    for name, parameter in list(module.named_parameters(recurse=whole)):
        owner = module.get_submodule(name.rpartition(".")[0])
        value = streamed.weights[f"{unit}.{name}" if unit else name]
        value = value.to(parameter.dtype).to(streamed.device)
        owner._parameters[name.rpartition(".")[2]] = nn.Parameter(value, requires_grad=False)
