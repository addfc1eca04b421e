"""CorDA initialisation of LoRA adapters from curvature that is already there."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from hcnr.errors import ConfigError, ModelError
from hcnr_kernels import inverse_hessian

try:
    from peft.tuners.lora.corda import CordaEigens, target_modules
except ModuleNotFoundError as error:
    raise ImportError(
        f"PEFT's CorDA needs {error.name}, which PEFT does not ask for; pip install attrs"
    ) from error


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
    targets: Any = list(target_modules(model, config))
    if not targets:
        raise ModelError(f"the model has no layer of target_modules {config.target_modules}")
    for name, layer in targets:
        if not isinstance(layer, nn.Linear):
            raise ModelError(f"{name} is a {type(layer).__name__}; only nn.Linear is supported")
        moment = curvature.get(name)
        size = layer.in_features
        if moment is None or moment.shape != (size, size):
            shape = "missing" if moment is None else f"{list(moment.shape)}"
            raise ConfigError(f"the curvature of {name} is {shape}, expected [{size}, {size}]")
        moment = moment.to(layer.weight.device, torch.float32)
        inverse = inverse_hessian(moment, damping=damping, names=[name])
        assert isinstance(inverse.matrix, Tensor)
        used[name] = float(f"{float(inverse.damping):.6g}")  # 0.01, not its nearest float32
        damped = moment.clone()
        damped.diagonal().add_(used[name] * moment.diagonal().mean())
        u, s, vh = torch.linalg.svd(layer.weight.float() @ damped, full_matrices=False)
        rank = _rank(config, name)
        if rank > len(s):
            raise ConfigError(f"rank {rank} of {name} is above {len(s)}, the rank of its weight")
        kept = slice(0, rank) if first else slice(len(s) - rank, None)
        v = (vh[kept] @ inverse.matrix).T
        # PEFT reads it there.
        layer.eigens = cast(Any, CordaEigens)(
            S_WC=s[kept].clone(), U_WC=u[:, kept].clone(), V_WC=v.contiguous()
        )
    adapted: Any = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    adapted.__dict__["hcnr_damping"] = used
    return adapted


def _rank(config: LoraConfig, name: str) -> int:
    own = [rank for key, rank in (config.rank_pattern or {}).items() if name.endswith(key)]
    return own[0] if own else config.r
