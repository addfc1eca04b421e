"""The rows that honesty needs: chosen once, remembered, watched and pulled back."""

import math

import torch
from torch import Tensor, nn

from hcnr import RestoreConfig
from hcnr.errors import ConfigError, ModelError
from hcnr.models.targets import target_matrices
from hcnr.repair.changes import relative_perturbation
from hcnr.repair.selection import candidates
from hcnr_kernels import perturbation


def layers_of(model: nn.Module, config: RestoreConfig) -> dict[str, nn.Linear]:
    """The matrices to watch.

    Raises:
        ModelError: there is none, or its weight is not in this process.
    """
    layers = target_matrices(model, config.targets, config.ignore)
    for name, layer in layers.items():
        if layer.weight.numel() != layer.out_features * layer.in_features:
            raise ModelError(
                f"{name} is spread over processes, and its rows cannot be watched from one; train "
                "without sharded parameters"
            )
    return layers


def check_settings(
    config: RestoreConfig, warn_above: float, hold: float | None, every: int
) -> None:
    """Refuse settings of the callback that are out of range.

    Raises:
        ConfigError: naming the first.
    """
    if config.axis != "output":
        raise ConfigError("the neuron axis is 'input', expected 'output': rows are held")
    for name, value in (("warn_above", warn_above), ("hold", hold)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} is {value}; it must be a finite number >= 0")
    if every < 1:
        raise ConfigError(f"every is {every}; it must be at least 1")


def check_trained(layers: dict[str, nn.Linear]) -> None:
    """Refuse matrices that cannot move: they would look safe for ever.

    Raises:
        ModelError: naming the first.
    """
    fixed = [name for name, layer in layers.items() if not layer.weight.requires_grad]
    if fixed:
        raise ModelError(
            f"{fixed[0]} does not train ({len(fixed)} of {len(layers)} matrices): leave frozen "
            "ones out with the config's `ignore`; rows of LoRA adapters are held by "
            "integrations.peft.lora.clear_neurons(hold=True)"
        )


class CriticalRows:
    """The honesty-critical rows of one matrix, as they were.

    Attributes:
        mask: bool `[out]`.
    """

    def __init__(
        self, layer: nn.Linear, honesty: Tensor, task: Tensor, config: RestoreConfig, position: int
    ) -> None:
        """Choose the top `in_weight_ratio` by priority, method.md (3), of scores `[out]`."""
        mask = candidates(honesty, task, config, position=position)
        self.mask = mask.to(layer.weight.device)
        self._anchor = layer.weight.detach()[self.mask].clone()

    def moved(self, layer: nn.Linear) -> float:
        """Relative change of the rows since then, method.md (4)."""
        rows = layer.weight.detach()[self.mask]
        every = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        sums = perturbation(self._anchor, rows, every, axis="output")
        return relative_perturbation(*(float(value) for value in sums))

    @torch.no_grad()
    def pull(self, layer: nn.Linear, limit: float) -> None:
        """Project the rows onto `moved <= limit`: 0 puts them back as they were."""
        moved = self.moved(layer)
        if moved > limit:
            anchor = self._anchor.float()
            rows = anchor + (layer.weight[self.mask].float() - anchor) * (limit / moved)
            layer.weight[self.mask] = rows.to(layer.weight.dtype)
