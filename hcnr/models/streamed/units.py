"""What of a model is read together, and which of it stays in memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError, ModelError
from hcnr.models.device_memory import GIB, free_memory
from hcnr.models.model import DTYPES, computed_dtype, resolve_device
from hcnr.models.targets import transformer_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Residence:
    """The units of a model: transformer blocks, and the modules outside of them with weights.

    Attributes:
        sizes: unit -> bytes of its weights as they are computed with, in the model's order.
        resident: units that stay on the device; the others are read for every use.
    """

    sizes: dict[str, int]
    resident: frozenset[str]

    @property
    def streamed(self) -> dict[str, int]:
        """Units that are read for every use, with their bytes."""
        return {unit: size for unit, size in self.sizes.items() if unit not in self.resident}

    @property
    def held(self) -> int:
        """Most bytes of weights at once: all that stays, and the largest unit that does not."""
        kept = sum(self.sizes[unit] for unit in self.resident)
        return kept + max(self.streamed.values(), default=0)


def residence(
    structure: "PreTrainedModel", config: RestoreConfig, device: torch.device | None = None
) -> Residence:
    """Decide what stays in memory.

    With `disk` nothing does. With `auto` it is what `max_memory` holds beside the largest unit:
    first what is no block, then blocks in order.

    Args:
        structure: the model on the meta device.
        config: device map, most memory, dtype.
        device: in place of the configuration's.

    Raises:
        ConfigError: `max_memory` does not hold the largest unit.
        ModelError: the model cannot be streamed, or there is no such device.
    """
    device = device or resolve_device(config.device)
    dtype = DTYPES.get(config.dtype) or computed_dtype(structure.dtype, device)
    sizes = units_of(structure, dtype)
    largest = max(sizes, key=lambda unit: sizes[unit])
    budget: int | None = None
    if config.max_memory is not None:
        budget = int(config.max_memory * GIB)
        if sizes[largest] > budget:
            raise ConfigError(
                f"max_memory is {config.max_memory:g} GiB, and {largest} alone has "
                f"{sizes[largest] / GIB:.3g} GiB of weights; give at least that"
            )
    if config.device_map == "disk":
        return Residence(sizes, frozenset())
    if budget is None:
        free = free_memory(device)
        budget = sum(sizes.values()) if free is None else free // 2
    if sum(sizes.values()) <= budget:
        return Residence(sizes, frozenset(sizes))
    blocks = f"{transformer_blocks(structure)}."
    left, resident = budget - sizes[largest], set[str]()
    for unit in sorted(sizes, key=lambda unit: unit.startswith(blocks)):
        if sizes[unit] <= left:
            resident.add(unit)
            left -= sizes[unit]
    return Residence(sizes, frozenset(resident))


def units_of(structure: "PreTrainedModel", dtype: torch.dtype) -> dict[str, int]:
    """Units with the bytes of their weights in `dtype`, where they are stored in the model's own.

    Raises:
        ModelError: the model has no blocks, or its blocks share weights.
    """
    blocks = transformer_blocks(structure)
    kind = type(structure).__name__
    if blocks is None:
        raise ModelError(f"{kind} has no list of blocks to read one by one; leave device_map out")
    prefix = f"{blocks}."
    names = [f"{prefix}{name}" for name, _ in structure.get_submodule(blocks).named_children()]
    homes: dict[int, str] = {}
    for name, module in structure.named_modules():
        if name.startswith(prefix):
            for own, parameter in module.named_parameters(recurse=False):
                if homes.setdefault(id(parameter), name) != name:
                    raise ModelError(
                        f"{homes[id(parameter)]} and {name} of {kind} share {own}, and blocks that "
                        "share weights are not read one by one; leave device_map out"
                    )
        elif any(True for _ in module.parameters(recurse=False)):
            names.append(name)
    # A module outside that holds others' parent keeps to its own parameters.
    return {name: _bytes(structure, name, prefix, dtype) for name in names}


def _bytes(structure: "PreTrainedModel", unit: str, prefix: str, dtype: torch.dtype) -> int:
    module: nn.Module = structure.get_submodule(unit)
    own = module.parameters(recurse=unit.startswith(prefix))
    stored = structure.dtype
    return sum(
        value.numel() * (dtype if value.dtype == stored else value.dtype).itemsize for value in own
    )
