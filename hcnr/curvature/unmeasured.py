"""Matrices that no measuring tells apart: those of one weight, and those that read no tokens."""

import contextlib
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hcnr.curvature.passes import finite_losses
from hcnr.data.batches import Batch
from hcnr.errors import ModelError
from hcnr.models.experts import one_by_one
from hcnr.models.linear import Expert, identity_of, ignoring_all

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def refuse_shared(model: nn.Module, matrices: Mapping[str, nn.Linear]) -> None:
    """Refuse matrices that are one weight under several names, and experts of two mixtures.

    Other layers that hold a matrix's weight are measured with it; another mixture's experts are run
    by its own code, which nothing looks into.

    Raises:
        ModelError: naming the first such and a pattern for all.
    """
    owners: dict[tuple[int, int], list[str]] = {}
    for name, layer in matrices.items():
        owners.setdefault(identity_of(layer), []).append(name)
    if shared := [names for names in owners.values() if len(names) > 1]:
        wrong = [name for names in shared for name in names]
        raise ModelError(
            f"{' and '.join(shared[0])} are one weight, whose gradient is that of all together; "
            f"leave such out with --ignore '{ignoring_all(wrong, matrices)}'"
        )
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(module)
    wrong = [
        name
        for name, layer in matrices.items()
        if isinstance(layer, Expert)
        and len(holders.get(id(layer.owner.get_parameter(layer.name)), ())) > 1
    ]
    if wrong:
        raise ModelError(
            f"the tensor of {wrong[0]} is that of another mixture too, whose use of it cannot be "
            f"seen; leave such out with --ignore '{ignoring_all(wrong, matrices)}'"
        )


def without_samples(
    model: "PreTrainedModel", matrices: Mapping[str, nn.Linear], batch: Batch
) -> list[str]:
    """Matrices that do not read one row for each token of a batch, in their order."""
    rows = batch.input_ids.numel()
    odd: set[str] = set()

    def seen(name: str, layer: nn.Module, args: Any, kwargs: dict[str, Any], _: object) -> None:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(layer, Expert):
            read = layer.rows
        else:
            read = x.numel() // max(x.shape[-1], 1) if isinstance(x, Tensor) else rows
        if read != rows:
            odd.add(name)

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(one_by_one(matrices.values()))
        for name, layer in matrices.items():
            hook = functools.partial(seen, name)
            stack.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)
        finite_losses(model, batch)
    return [name for name in matrices if name in odd]
