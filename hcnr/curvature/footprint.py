"""What one micro-batch holds in memory, from a dry run on tensors that have no memory.

The pass runs as `hcnr.curvature.passes` runs it, taps included, on fake tensors (torch's
`FakeTensorMode`): every operator says what it would return, none computes. What lives at once is
counted storage by storage, forward and backward, for any architecture.
"""

import contextlib
import copy
import functools
import inspect
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hcnr.curvature.layouts import SharedInput
from hcnr.curvature.passes import prepared
from hcnr.curvature.taps import Taps
from hcnr.models.experts import holds_experts, projections, running_as
from hcnr.models.linear import Expert

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Footprint", "footprint"]


class Footprint(NamedTuple):
    """Most bytes that one micro-batch holds beside the weights.

    Attributes:
        forward: of a forward pass without gradients.
        backward: of a forward and a backward pass with taps on every target matrix.
    """

    forward: int
    backward: int


def footprint(
    skeleton: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    *,
    samples: int,
    tokens: int,
    responses: int,
    dtype: torch.dtype,
    attention: str = "auto",
    gradient_checkpointing: bool = False,
) -> Footprint:
    """Count what passes over a micro-batch hold at once.

    Left out is what operators take for themselves while they run (a matrix product's workspace,
    a fused kernel's), and what consumers of a pass sum up: scores and curvature.

    Args:
        skeleton: the model on the meta device; unchanged.
        matrices: its layers that are tapped, by name.
        samples: of the micro-batch, B, all of one length.
        tokens: of each sample, T.
        responses: how many of the T carry loss.
        dtype: of the weights, in place of the model's; others keep their own.
        attention: as in the configuration.
        gradient_checkpointing: recompute each block in backward.

    Raises:
        RuntimeError: or whatever else the model raises where its shapes depend on values.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = copy.deepcopy(skeleton)
    if attention != "auto":
        model.set_attn_implementation(attention)
    with fake:
        _place(model, dtype)
        layers, experts = _tapped(model, matrices)
    most = []
    for backward in (False, True):
        with contextlib.ExitStack() as stack:
            stack.enter_context(prepared(model, gradient_checkpointing=gradient_checkpointing))
            stack.enter_context(fake)
            live = stack.enter_context(Live(model))
            taps = stack.enter_context(_Rowless(layers))
            for owner, maps in experts:
                stack.enter_context(running_as(owner, functools.partial(_evenly, owner, *maps)))
            taps.begin(None)
            with torch.set_grad_enabled(backward):
                loss = _loss(model, samples, tokens, responses)
            if backward:
                loss.backward()
            del loss
        most.append(live.most)
    return Footprint(*most)


def _place(model: Any, dtype: torch.dtype) -> None:
    """Put fake tensors of the same shapes in place of a skeleton's."""
    stored = model.dtype

    def empty(value: Tensor) -> Tensor:
        own = dtype if value.dtype == stored else value.dtype
        return torch.empty(value.shape, dtype=own, device="cpu")

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(empty(parameter), requires_grad=False)
        for own in (module._buffers, vars(module)):
            own |= {n: empty(v) for n, v in own.items() if isinstance(v, Tensor)}


def _tapped(
    model: nn.Module, matrices: Mapping[str, nn.Linear]
) -> tuple[dict[str, nn.Module], list[tuple[nn.Module, tuple[Expert, Expert]]]]:
    """The layers to tap, of each mixture one expert's, and the mixtures with these two maps."""
    names = {name for name, layer in matrices.items() if isinstance(layer, Expert)}
    layers: dict[str, nn.Module] = {
        name: model.get_submodule(name) for name in matrices if name not in names
    }
    experts: list[tuple[nn.Module, tuple[Expert, Expert]]] = []
    for name, module in model.named_modules():
        if not holds_experts(module):
            continue
        first, second = (Expert(module, own, 0) for own in projections(module))
        experts.append((module, (first, second)))
        for expert in (first, second):
            prefix = f"{name}.{expert.name}."
            if any(matrix.startswith(prefix) for matrix in names):
                layers[prefix + "0"] = expert
    return layers, experts


def _loss(model: Any, samples: int, tokens: int, responses: int) -> Tensor:
    """The summed loss of a micro-batch without padding, logits at the last positions alone."""
    takes = "logits_to_keep" in inspect.signature(model.forward).parameters
    ids = torch.zeros(samples, tokens, dtype=torch.int64)
    kept = {"logits_to_keep": responses} if takes else {}
    logits = model(input_ids=ids, use_cache=False, **kept).logits
    rows = logits[:, -responses:].flatten(0, 1)
    del logits
    labels = torch.zeros(samples * responses, dtype=torch.int64)
    return nn.functional.cross_entropy(rows.float(), labels, reduction="none").sum()


class Live(TorchDispatchMode):
    """Counts bytes of the storages that are alive at once, of those made while it is entered.

    Attributes:
        most: bytes at the worst moment so far.
    """

    def __init__(self, model: nn.Module) -> None:
        """Count from zero.

        Args:
            model: whose own tensors do not count, nor do views of them.
        """
        super().__init__()
        self._now = self.most = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        for own in (*model.parameters(), *model.buffers()):
            self._known[own.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = None
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self._now -= size


class _Rowless(Taps):
    """Taps that keep what taps keep and ask for no samples, whose places are values."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(modules, on_gradient=lambda name, shared, x, g: None)

    def _join(self, x: Tensor, name: str) -> SharedInput:
        return SharedInput(_Flat(), name, 0, {})  # pyright: ignore[reportArgumentType]


class _Flat:
    """A layout that reads rows off any tensor."""

    def rows(self, tensor: Tensor, name: str) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1])


def _evenly(
    module: Any, into: Expert, out: Expert, states: Tensor, top_k_index: Tensor, shares: Tensor
) -> Tensor:
    """A mixture `[tokens, width]` where one expert takes as many rows as all of them together."""
    tokens = torch.zeros(top_k_index.numel(), dtype=torch.int64)
    activate = module._apply_gate if module.has_gate else module.act_fn
    written = out(activate(into(states[tokens]))) * shares.flatten()[:, None]
    return torch.zeros_like(states).index_add(0, tokens, written.to(states.dtype))
