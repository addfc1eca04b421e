"""LoRA adapters by neurons: held, pruned, and used to restore."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from hcnr.errors import ConfigError, ModelError
from hcnr.repair.selection import count_of, top


@torch.no_grad()
def clear_neurons(
    model: PeftModel, masks: Mapping[str, Tensor], *, axis: str = "output", hold: bool = False
) -> None:
    """Take the adapter off some neurons, which then are the base model's, exactly.

    Args:
        model: with LoRA adapters on linear layers.
        masks: layer -> bool `[out]` or `[in]`, such as `Selection.masks`; True loses the adapter.
        axis: `output`: rows of B; `input`: columns of A.
        hold: keep these neurons so while training goes on: their gradient is 0 from here on. Start
            from a fresh optimiser, whose momentum does not remember them.

    Raises:
        HcnrError: no layer of that name has an adapter, or a mask is of another size.
    """
    if axis not in ("output", "input"):
        raise ConfigError(f"axis is {axis!r}; it must be 'output' or 'input'")
    layers: dict[str, Any] = dict(lora_layers(model))
    for name, mask in masks.items():
        if name not in layers:
            raise ModelError(f"{name} has no adapter; those that have: {', '.join(layers)}")
        for key, part in (layers[name].lora_B if axis == "output" else layers[name].lora_A).items():
            weight = part.weight
            size = weight.shape[0 if axis == "output" else 1]
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (size,):
                what = type(mask).__name__
                if isinstance(mask, Tensor):
                    what = f"{mask.dtype} {list(mask.shape)}"
                raise ConfigError(
                    f"the mask of {name} ({key}) is {what}, expected torch.bool [{size}]"
                )
            kept = ~mask.to(weight.device)
            kept = kept[:, None] if axis == "output" else kept[None]
            weight.masked_fill_(~kept, 0)
            if hold:
                weight.register_hook(lambda gradient, kept=kept: gradient * kept)


def prune(
    model: PeftModel, scores: Mapping[str, Tensor], share: float, *, axis: str = "output"
) -> dict[str, Tensor]:
    """Take the adapter off the `share` of each layer's neurons with the lowest scores.

    Args:
        model: with LoRA adapters.
        scores: layer -> `[d']`, such as `NeuronFisher.scores` on task data.
        share: of the neurons, 0 to 1, rounded half up; ties go to the lower index.
        axis: as in `clear_neurons`.

    Returns:
        The masks of the neurons that lost it.

    Raises:
        HcnrError: scores hold NaN or are of another size, or as `clear_neurons`.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}; it must be between 0 and 1")
    for name, own in scores.items():
        if own.dim() != 1 or own.isnan().any():
            what = f"of shape {list(own.shape)}" if own.dim() != 1 else "with NaN among them"
            raise ConfigError(f"the scores of {name} are {what}; expected a number a neuron")
    masks = {name: top(-own, count_of(share, len(own))) for name, own in scores.items()}
    clear_neurons(model, masks, axis=axis)
    return masks


@torch.no_grad()
def repair_as_adapter(
    tuned: nn.Module, restored: Mapping[str, Tensor], rank: int
) -> tuple[PeftModel, dict[str, float]]:
    """A repair as an adapter on the tuned model, to be switched on and off.

    A matrix of which k neurons were restored needs a rank of at most k to be exact.

    Args:
        tuned: the fine-tuned model.
        restored: layer -> restored weight `[out, in]`.
        rank: of every adapter.

    Returns:
        The PEFT model and, by layer, the share of the repair's squared norm that the rank keeps.

    Raises:
        HcnrError: a layer is missing, of another shape or not finite, or the rank is below 1.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"rank is {rank}; it must be a whole number of at least 1")
    if not restored:
        raise ConfigError("there is no restored layer; an adapter needs at least one")
    own: dict[str, Any] = dict(tuned.named_modules())
    changes: dict[str, Tensor] = {}
    for name, weight in restored.items():
        layer = own.get(name)
        if not isinstance(layer, nn.Linear) or layer.weight.shape != weight.shape:
            raise ModelError(f"{name} is no linear layer {list(weight.shape)} of the tuned model")
        if not weight.isfinite().all():
            raise ModelError(f"the restored weight of {name} holds NaN or infinity")
        changes[name] = (weight.float() - layer.weight.float()).to(layer.weight.device)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(changes))
    adapted: Any = get_peft_model(tuned, config)  # pyright: ignore[reportArgumentType]
    kept: dict[str, float] = {}
    layers: dict[str, Any] = dict(lora_layers(adapted))
    for name, layer in layers.items():
        u, s, vh = torch.linalg.svd(changes[name], full_matrices=False)
        width = min(rank, len(s))
        part_a, part_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        part_a.zero_()[:width] = s[:width, None] * vh[:width]
        part_b.zero_()[:, :width] = u[:, :width]
        total = float(s.square().sum())
        kept[name] = float(s[:width].square().sum()) / total if total else 1.0
    return adapted, kept


def lora_layers(model: PeftModel) -> dict[str, LoraLinear]:
    """Adapted linear layers by the names they have without adapters."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }
