"""Avalanche's EWC plugin with the exact diagonal in place of its squared batch gradients."""

from typing import Any

import torch
from avalanche.training.plugins import EWCPlugin
from avalanche.training.plugins.ewc import ParamData
from torch import nn
from torch.utils.data import DataLoader

from hcnr.errors import ModelError
from integrations.ewc.diagonal import Consolidation


class ExactEWCPlugin(EWCPlugin):
    """`EWCPlugin` whose importances are squared per sample; every parameter must be linear."""

    def compute_importances(
        self,
        model: nn.Module,
        criterion: Any,
        optimizer: Any,
        dataset: Any,
        device: Any,
        batch_size: int,
        num_workers: int = 0,
    ) -> dict[str, ParamData]:
        """Importance of every parameter, `E[(dL/dtheta)^2]` over the samples of `dataset`.

        Raises:
            HcnrError: a trainable parameter is in no linear layer, or a loss is not finite.
        """
        was = model.training
        model.eval()
        loader = DataLoader(
            dataset, batch_size=batch_size, collate_fn=getattr(dataset, "collate_fn", None)
        )

        def summed(batch: Any) -> torch.Tensor:
            x, y, *rest = (one.to(device) for one in batch)
            output = model(x, rest[-1]) if hasattr(model, "classifiers") else model(x)
            # The criterion is a mean over the batch.
            return criterion(output, y) * len(y)

        measured = Consolidation.measure(model, loader, summed, size=lambda batch: len(batch[1]))
        model.train(was)
        missing = [
            name
            for name, one in model.named_parameters()
            if one.requires_grad and name not in measured.diagonal
        ]
        if missing:
            raise ModelError(
                f"{missing[0]} is a parameter of no linear layer, which this plugin has no "
                "importance for; use Avalanche's own EWCPlugin, or freeze it"
            )
        return {
            name: ParamData(name, one.shape, init_tensor=one, device=device)
            for name, one in measured.diagonal.items()
        }
