"""LoRA adapters by neurons: initialised from curvature, held, pruned, and used to restore."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.corda import CordaEigens, target_modules
from torch import Tensor, nn

from hcnr.errors import ConfigError, ModelError
from hcnr.selection import count_of, top
from hcnr_kernels import inverse_hessian


@torch.no_grad()
def corda_model(
    model: nn.Module, config: LoraConfig, curvature: Mapping[str, Tensor], *, damping: float = 0.01
) -> PeftModel:
    """CorDA initialisation, from second moments that are already there.

    What PEFT's `preprocess_corda` computes from a run of its own, with a damping ladder that ends
    in an error and is told, in place of an inverse that is retried until it looks right.

    Args:
        model: to put adapters on.
        config: with `init_lora_weights="corda"` and a `corda_config`.
        curvature: target -> `E[x x^T]` `[in, in]`, such as `Statistics.hessians["task"]` of the
            input axis.
        damping: share of the mean diagonal.

    Returns:
        The PEFT model; `hcnr_damping` of it holds the damping used, by target.

    Raises:
        HcnrError: the config is another, or a target's curvature is missing, of another size or
            cannot be inverted.
    """
    if config.init_lora_weights != "corda" or config.corda_config is None:
        raise ConfigError("config must have init_lora_weights='corda' and a corda_config")
    first = config.corda_config.corda_method == "ipm"
    used: dict[str, float] = {}
    targets = dict(target_modules(model, config))
    for name, layer in targets.items():
        if not isinstance(layer, nn.Linear):
            raise ModelError(f"{name} is a {type(layer).__name__}; only nn.Linear is supported")
        moment = curvature.get(name)
        size = layer.in_features
        if moment is None or moment.shape != (size, size):
            found = "missing" if moment is None else f"{list(moment.shape)}"
            raise ConfigError(f"the curvature of {name} is {found}, expected [{size}, {size}]")
        moment = moment.to(layer.weight.device, torch.float32)
        inverse = inverse_hessian(moment, damping=damping, names=[name])
        assert isinstance(inverse.matrix, Tensor)
        used[name] = float(inverse.damping)
        damped = moment.clone()
        damped.diagonal().add_(used[name] * moment.diagonal().mean())
        u, s, vh = torch.linalg.svd(layer.weight.float() @ damped, full_matrices=False)
        rank = _rank(config, name)
        kept = slice(0, rank) if first else slice(len(s) - rank, None)
        v = (vh[kept] @ inverse.matrix).T
        layer.eigens = CordaEigens(  # pyright: ignore[reportArgumentType] (PEFT reads it there)
            S_WC=s[kept].clone(), U_WC=u[:, kept].clone(), V_WC=v.contiguous()
        )
    adapted = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    for layer in targets.values():
        del layer.eigens
    adapted.__dict__["hcnr_damping"] = used
    return adapted  # pyright: ignore[reportReturnType]


def _rank(config: LoraConfig, name: str) -> int:
    own = [rank for key, rank in (config.rank_pattern or {}).items() if name.endswith(key)]
    return own[0] if own else config.r


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
    layers = lora_layers(model)
    for name, mask in masks.items():
        if name not in layers:
            raise ModelError(f"{name} has no adapter; those that have: {', '.join(layers)}")
        for key, part in (layers[name].lora_B if axis == "output" else layers[name].lora_A).items():
            weight = part.weight
            size = weight.shape[0 if axis == "output" else 1]
            if mask.dtype != torch.bool or mask.shape != (size,):
                raise ConfigError(
                    f"the mask of {name} ({key}) is {mask.dtype} {list(mask.shape)}, expected "
                    f"torch.bool [{size}]"
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
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}; it must be between 0 and 1")
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
        HcnrError: a layer is missing or of another shape, or the rank is below 1.
    """
    if rank < 1:
        raise ConfigError(f"rank is {rank}; it must be at least 1")
    own: dict[str, Any] = dict(tuned.named_modules())
    changes: dict[str, Tensor] = {}
    for name, weight in restored.items():
        layer = own.get(name)
        if not isinstance(layer, nn.Linear) or layer.weight.shape != weight.shape:
            raise ModelError(f"{name} is no linear layer {list(weight.shape)} of the tuned model")
        changes[name] = (weight.float() - layer.weight.float()).to(layer.weight.device)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(changes))
    adapted: Any = get_peft_model(tuned, config)  # pyright: ignore[reportArgumentType]
    kept: dict[str, float] = {}
    for name, layer in lora_layers(adapted).items():
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
