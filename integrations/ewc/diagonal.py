"""Elastic weight consolidation with the exact diagonal: squared per sample, not per batch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hcnr.errors import ConfigError
from hcnr.models.targets import target_matrices
from integrations.factors import collect


class Consolidation:
    """The penalty of EWC around the weights that a model has now.

        anchor = Consolidation.measure(model, loader, summed_loss, size=len)
        loss = task_loss + anchor.penalty(model, strength=100.0)

    Attributes:
        diagonal: parameter -> mean over samples of its squared per-sample gradient, fp32, of the
            parameter's shape: weights and biases of linear layers.
        anchor: the same parameters as they were.
    """

    def __init__(self, diagonal: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        """Keep both; use `measure` to make them."""
        self.diagonal, self.anchor = dict(diagonal), dict(anchor)

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        batches: Iterable[Any],
        loss: Callable[[Any], Tensor],
        *,
        size: Callable[[Any], int],
        mask: Callable[[Any], Tensor | None] = lambda _: None,
        targets: Iterable[str] = ("*",),
        ignore: Iterable[str] = (),
    ) -> "Consolidation":
        """Measure the diagonal of the empirical Fisher matrix; the batch size does not matter.

        Args:
            model: any module with linear layers; of a language model the blocks are searched.
            batches: what `loss` takes.
            loss: the SUM of the losses of a batch's samples.
            size: samples of a batch.
            mask: `[B, T]`, non-zero on real tokens; None without padding.
            targets: glob patterns of layers.
            ignore: glob patterns of layers to leave out.

        Raises:
            HcnrError: no layer, no batch, or a loss that is not finite.
        """
        layers = target_matrices(model, targets, ignore)
        sums = collect(model, layers, batches, loss, size=size, mask=mask, parts=("diagonal",))
        diagonal: dict[str, Tensor] = {}
        for name, total in sums.diagonal.items():
            width, prefix = layers[name].in_features, f"{name}." if name else ""
            diagonal[f"{prefix}weight"] = total[:, :width] / sums.samples
            if layers[name].bias is not None:
                diagonal[f"{prefix}bias"] = total[:, width] / sums.samples
        own = dict(model.named_parameters(remove_duplicate=False))
        return cls(diagonal, {name: own[name].detach().clone() for name in diagonal})

    def penalty(self, model: nn.Module, *, strength: float) -> Tensor:
        """`strength / 2 * sum_i F_i (theta_i - anchor_i)^2`, a scalar with a graph.

        Raises:
            ConfigError: the model has other parameters, or the strength is no number >= 0.
        """
        if not 0 <= strength < float("inf"):
            raise ConfigError(f"strength is {strength}; it must be a finite number >= 0")
        own = dict(model.named_parameters(remove_duplicate=False))
        total: Tensor | None = None
        for name, weight in self.diagonal.items():
            if name not in own or own[name].shape != weight.shape:
                shape = list(own[name].shape) if name in own else "nothing"
                raise ConfigError(
                    f"{name} is {shape} in this model and {list(weight.shape)} where it was "
                    "measured; use the model that was measured"
                )
            term = (weight * (own[name].float() - self.anchor[name].float()).square()).sum()
            total = term if total is None else total + term
        assert total is not None
        return 0.5 * strength * total


def batch_squared(
    model: nn.Module, batches: Iterable[Any], loss: Callable[[Any], Tensor], names: Iterable[str]
) -> dict[str, Tensor]:
    """The common shortcut, to compare with: mean over batches of the squared mean gradient.

    `loss` is the MEAN over a batch's samples here, as training loops have it. With batches of more
    than one sample this is another quantity: gradients that disagree cancel before the square.

    Returns:
        Parameter -> fp32, for the parameters `names`.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    chosen = {name: own[name] for name in names}
    squares = {name: torch.zeros_like(one, dtype=torch.float32) for name, one in chosen.items()}
    count = 0
    for batch in batches:
        gradients = torch.autograd.grad(loss(batch), list(chosen.values()))
        for name, gradient in zip(chosen, gradients, strict=True):
            squares[name] += gradient.float().square()
        count += 1
    return {name: one / max(count, 1) for name, one in squares.items()}
