"""Mixtures of experts that hold all experts of a block in two tensors: one matrix per expert.

transformers gives such modules one face (`use_experts_implementation`), behind which an
implementation takes hidden states and routes and returns the mixture. `run_one_by_one` is one more
of them: it computes what the others do with one `Expert` at a time, so that what each reads and
writes can be seen. Modules without that face stay out of reach.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hcnr.models.linear import Expert

__all__ = ["holds_experts", "layer_of", "one_by_one", "projections", "running_as", "slices"]

_FACE = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "num_experts")


def holds_experts(module: nn.Module) -> bool:
    """Whether a module is a mixture's experts, in tensors `[experts, ...]`, with the known face."""
    if not all(hasattr(module, key) for key in _FACE) or getattr(module, "_is_expert_parallel", 0):
        return False
    own = dict(module.named_parameters(recurse=False))
    return all(
        name in own and own[name].dim() == 3 and own[name].shape[0] == module.num_experts
        for name in projections(module)
    )


def projections(module: Any) -> tuple[str, str]:
    """Names of the two tensors: what is read by the experts, and what they write."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"


def slices(module: nn.Module) -> dict[str, Expert]:
    """All experts' maps by their names inside the module, such as `gate_up_proj.3`."""
    count: Any = module.num_experts
    return {
        f"{name}.{index}": Expert(module, name, index)
        for name in projections(module)
        for index in range(count)
    }


def layer_of(model: nn.Module, matrix: str) -> Any:
    """The layer of a matrix: a module of the model, or an `Expert` over the memory of one.

    Raises:
        AttributeError: the model has no such matrix.
    """
    parent, _, index = matrix.rpartition(".")
    owner, _, name = parent.rpartition(".")
    if index.isdigit():
        with contextlib.suppress(AttributeError):
            module = model.get_submodule(owner)
            if holds_experts(module) and name in projections(module):
                return Expert(module, name, int(index))
    return model.get_submodule(matrix)


@contextlib.contextmanager
def one_by_one(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, modules that hold one of the experts run through `layers` for it.

    Args:
        layers: of any kind; only each `Expert` among them counts.
    """
    owners: dict[int, dict[tuple[str, int], Expert]] = {}
    for layer in layers:
        if isinstance(layer, Expert):
            owners.setdefault(id(layer.owner), {})[layer.name, layer.index] = layer
    with contextlib.ExitStack() as stack:
        for own in owners.values():
            module = next(iter(own.values())).owner
            stack.enter_context(_running(module, own))
        yield


@contextlib.contextmanager
def _running(module: nn.Module, own: Mapping[tuple[str, int], Expert]) -> Iterator[None]:
    count: Any = module.num_experts
    first, second = projections(module)
    experts = [
        (
            own.get((first, i)) or Expert(module, first, i),
            own.get((second, i)) or Expert(module, second, i),
        )
        for i in range(count)
    ]
    with running_as(module, functools.partial(_run, module, experts)):
        yield


@contextlib.contextmanager
def running_as(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Run a module by another function inside, whatever stood in its place before."""
    own = vars(module).get("forward")  # set on the instance by some wrappers
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _run(
    module: Any,
    experts: list[tuple[Expert, Expert]],
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    """The mixture `[tokens, width]`, one expert after the other; those without a token run too.

    Args:
        module: what holds the experts.
        experts: their two maps.
        hidden_states: `[tokens, width]`.
        top_k_index: experts of each token `[tokens, k]`.
        top_k_weights: their shares, of the same shape.
    """
    mixture = torch.zeros_like(hidden_states)
    activate: Callable[[Tensor], Tensor] = module._apply_gate if module.has_gate else module.act_fn
    for index, (into, out) in enumerate(experts):
        tokens, slots = (top_k_index == index).nonzero().unbind(1)
        for layer in (into, out):
            layer.tokens, layer.rows = tokens, hidden_states.shape[0]
        written = out(activate(into(hidden_states[tokens])))
        if module.has_post_expert_norm:
            written = module.post_expert_norm(written)
        weighted = written * top_k_weights[tokens, slots, None]
        mixture = mixture.index_add(0, tokens, weighted.to(mixture.dtype))
    return mixture
