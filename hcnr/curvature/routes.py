"""Which experts a token is routed to, recorded in one pass and followed in another.

In 16 bits a router's scores round differently from batch to batch, and where two experts are all
but tied a token takes the other one: everything behind it differs, and no sample has seen another.
To tell this from a fault, the second pass follows the routes of the first.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from hcnr.data.batches import Batch
from hcnr.models.experts import holds_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ARGUMENTS = ("hidden_states", "top_k_index", "top_k_weights")


class _Route(NamedTuple):
    """Of the tokens of one sample: experts `[T, k]` and their shares, detached."""

    experts: Tensor
    shares: Tensor


class Routes:
    """Context manager that sees the routes of every mixture whose face is known.

    Attributes:
        mode: `record` keeps the routes of each sample. `follow` sends a token whose set of experts
            is another one where it was sent before, with the shares that it had then, which carry
            no gradient. `hold` lets the shares of those same tokens carry none in a further pass:
            the two passes are then of one function.
        seen: routes that were compared while following.
        changed: those of them that differed.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        """Find the mixtures of a model; nothing is attached before the context is entered."""
        self.mode: Literal["record", "follow", "hold"] = "record"
        self.seen = self.changed = 0
        self._modules = {n: m for n, m in model.named_modules() if holds_experts(m)}
        self._routes: dict[tuple[str, int], _Route] = {}
        self._differs: dict[tuple[str, int], Tensor] = {}
        self._batch: Batch | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def begin(self, batch: Batch) -> None:
        """Announce the right-padded batch whose forward and backward pass come next."""
        self._batch = batch

    @property
    def share(self) -> float:
        """Share of the routes that differed."""
        return self.changed / max(self.seen, 1)

    def __enter__(self) -> "Routes":
        for name, module in self._modules.items():
            handle = module.register_forward_pre_hook(self._hook(name), with_kwargs=True)
            self._handles.append(handle)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]] | None]:
        def hook(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            arguments = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            if self._batch is None or not all(key in arguments for key in _ARGUMENTS):
                return None
            experts, shares = arguments["top_k_index"], arguments["top_k_weights"]
            samples, length = self._batch.input_ids.shape
            if len(experts) != samples * length or experts.shape != shares.shape:
                return None
            arguments["top_k_index"], arguments["top_k_weights"] = self._routed(
                name, self._batch, experts, shares
            )
            return (), arguments

        return hook

    def _routed(
        self, name: str, batch: Batch, experts: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Experts and shares `[B * T, k]` to go on with."""
        length = batch.input_ids.shape[1]
        new, weights = experts.clone(), shares
        for row, (sample, count) in enumerate(
            zip(batch.indices, batch.lengths.tolist(), strict=True)
        ):
            key, span = (name, sample), slice(row * length, row * length + count)
            if self.mode == "record":
                self._routes[key] = _Route(experts[span].clone(), shares[span].detach().clone())
                continue
            before = self._routes.get(key)
            if before is None:
                continue
            differs = torch.zeros(len(experts), 1, dtype=torch.bool, device=experts.device)
            if self.mode == "hold":
                if key not in self._differs:
                    continue
                differs[span] = self._differs[key]
                weights = torch.where(differs, weights.detach(), weights)
                continue
            own = experts[span].sort(1).values != before.experts.sort(1).values
            self._differs[key] = own.any(1, keepdim=True)
            self.seen += count
            self.changed += int(self._differs[key].sum())
            differs[span] = self._differs[key]
            earlier = weights.detach().clone()
            earlier[span] = before.shares
            weights = torch.where(differs, earlier, weights)
            new[span] = torch.where(self._differs[key], before.experts, experts[span])
        return new, weights
