"""Taps: what a linear map reads and the gradient of what it writes, token by token.

A tap sits on the output of an `nn.Linear` as an identity in the autograd graph that saves the
layer's input. In backward it receives the output's gradient and hands both to a consumer. The
input is saved the way autograd saves any activation, so gradient checkpointing recomputes it
(forward hooks firing twice change nothing) and it is freed as soon as the layer's backward is
over. No weight needs a gradient for this.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hcnr.curvature.layouts import RoutedLayout, SharedInput, TokenLayout
from hcnr.errors import ModelError
from hcnr.models.experts import one_by_one
from hcnr.models.linear import Expert, ignoring, sharing_layers


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of `module` requires a gradient inside; the flags come back at the end."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


GradientConsumer = Callable[[str, SharedInput, Tensor, Tensor], None]
"""`(matrix, shared, x [R, in], g [R, out])`, called in backward with rows of `shared.layout`."""
InputConsumer = Callable[[str, SharedInput, Tensor], None]
"""`(matrix, shared, x [R, in])`, called in forward with rows of `shared.layout`."""


class InputsDiffer(Exception):
    """Matrices that share what they read do not share all of it.

    They were used more than once in a forward pass, or shared another tensor with others before.

    Attributes:
        names: of all matrices that do not.
    """

    def __init__(self, names: Collection[str]) -> None:
        """Keep the names."""
        super().__init__("matrices do not share all that they read")
        self.names = names


def more_gradients(name: str) -> ModelError:
    """What is said where backward meets one use of a matrix, or all of them, twice."""
    return ModelError(
        f"{name} receives more gradients than it has uses in a forward pass: the squares of two do "
        "not add up to the square of their sum; call backward once a forward pass, or leave it out "
        f"with ignore=['{name}']"
    )


class _Tap(torch.autograd.Function):
    """Identity on a layer's output that delivers (input, output gradient) in backward.

    The output itself comes back, marked as changed, and no view of it: models may change it in
    place afterwards (Falcon adds its residual so), which views of a function's output forbid.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        x: Tensor,
        name: str,
        shared: SharedInput,
        consume: GradientConsumer,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.name, ctx.shared, ctx.consume, ctx.met = name, shared, consume, False
        ctx.mark_dirty(output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        name, shared = ctx.name, ctx.shared
        if ctx.met:
            raise more_gradients(name)
        ctx.met = True
        try:
            (x,) = ctx.saved_tensors
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise ModelError(
                f"the input of {name} is changed in place after it was read, so what it read "
                f"cannot be told; leave it out with --ignore '{name}'"
            ) from error
        with torch.no_grad():
            ctx.consume(name, shared, shared.rows(x, name), shared.layout.rows(grad, name))
        shared.served()
        return grad, None, None, None, None


class Taps:
    """Context manager that taps `modules` while it is open.

    Exactly one consumer is given: `on_gradient` receives inputs with output gradients in
    backward, `on_input` receives inputs alone in forward (under `torch.no_grad()` too).
    Call `begin` before and `end` after each forward pass.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        on_gradient: GradientConsumer | None = None,
        on_input: InputConsumer | None = None,
        model: nn.Module | None = None,
        apart: Container[str] | None = None,
    ) -> None:
        """Prepare taps on `modules` (matrix name -> layer); nothing is attached yet.

        Args:
            modules: to be tapped.
            on_gradient: consumer.
            on_input: consumer.
            model: what holds them; its other layers with one of their weights are tapped too.
            apart: matrices that share nothing with others. Where it is not None, `end` raises
                `InputsDiffer` for others that were used more than once, or have another leader than
                in an earlier forward pass: no leader stands for all that they read.
        """
        self._modules = modules
        self._twins = {} if model is None else sharing_layers(model, modules)
        self._apart = apart
        self._uses: Counter[str] = Counter()
        self._tapped: Counter[str] = Counter()
        self._again: Counter[str] = Counter()
        self._leaders: dict[str, str] = {}
        self._parted: set[str] = set()
        self._counts = False
        self._on_gradient = on_gradient
        self._on_input = on_input
        self._layout: TokenLayout | None = None
        self._samples: int | None = None
        self._forward = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._last: tuple[weakref.ref[Tensor], SharedInput] | None = None
        self._routed: tuple[Tensor, RoutedLayout] | None = None
        self._open = contextlib.ExitStack()

    @property
    def forward(self) -> int:
        """Number of the forward pass that was announced last."""
        return self._forward

    def begin(self, layout: TokenLayout | None, samples: int | None = None) -> None:
        """Announce a forward pass.

        Without a `layout` there is no padding; `samples` is then the batch size, for layers that
        see the tokens of all samples in one flat row after the other.
        """
        self._layout = layout
        self._samples = samples
        self._forward += 1
        self._last = self._routed = None
        self._uses, self._counts = Counter(), True
        self._tapped, self._again = Counter(), Counter()

    def end(self) -> None:
        """Announce the end of a forward pass: what is recomputed later shares nothing with it.

        Raises:
            InputsDiffer: see `apart`.
        """
        self._last = self._routed = None
        self._counts = False
        if self._apart is not None:
            again = {name for name, count in self._uses.items() if count > 1} | self._parted
            if any(name not in self._apart for name in again):
                raise InputsDiffer(again)

    def __enter__(self) -> "Taps":
        for name, module in self._modules.items():
            for layer in (module, *self._twins.get(name, ())):
                handle = layer.register_forward_hook(self._hook(name), with_kwargs=True)
                self._handles.append(handle)
        self._open.enter_context(one_by_one(self._modules.values()))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._open.close()
        self._last = self._routed = None

    def _hook(self, name: str) -> Callable[..., Tensor | None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Tensor | None:
            x = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(x, Tensor) or not isinstance(output, Tensor):
                alike = [n for n, other in self._modules.items() if type(other) is type(module)]
                raise ModelError(
                    f"{name} ({type(module).__name__}) turns a {type(x).__name__} into a "
                    f"{type(output).__name__}, and a tensor into a tensor was expected; leave it "
                    f"out with --ignore '{ignoring(name, alike, self._modules)}'"
                )
            if self._counts:
                # Under reentrant checkpointing no tap is set before it is recomputed.
                self._uses[name] += 1
            if self._on_input is not None:
                shared = self._join(x, name)
                self._on_input(name, shared, shared.layout.rows(x.detach(), name))
            if self._on_gradient is None or not torch.is_grad_enabled():
                return None
            if not output.requires_grad:
                # Nothing before this layer carries a gradient: it enters here. A leaf must not
                # be marked as changed, so a copy follows it.
                output = output.requires_grad_(True).clone()
            self._check_again(name)
            return _Tap.apply(output, x, name, self._join(x, name), self._on_gradient)

        return hook

    def _check_again(self, name: str) -> None:
        """Refuse a use that reentrant checkpointing recomputes for a second backward pass.

        It sets taps when it recomputes, and none before: each is another object for one use.
        """
        if self._counts:
            self._tapped[name] += 1
            return
        self._again[name] += 1
        if not self._tapped[name] and 0 < self._uses[name] < self._again[name]:
            raise more_gradients(name)

    def _join(self, x: Tensor, name: str) -> SharedInput:
        """Return the group of the tensor object `x`; q/k/v and gate/up follow each other."""
        alone = self._apart is not None and name in self._apart
        shared = None
        if self._last is not None and not alone:
            reference, last = self._last
            shared = last if reference() is x else None
        if shared is None:
            shared = SharedInput(self._layout_for(x, name), name, self._forward, self._uses)
            self._last = None if alone else (weakref.ref(x), shared)
        shared.users += 1
        if self._counts and not alone:
            leader = self._leaders.setdefault(name, shared.leader)
            if leader != shared.leader:
                self._parted.add(name)
        return shared

    def _layout_for(self, x: Tensor, name: str) -> "TokenLayout | RoutedLayout":
        """Layout of what a matrix reads."""
        module: nn.Module = self._modules[name]
        if isinstance(module, Expert):
            return self._layout_of(module, x, name)
        layout = self._layout and self._layout.fitting(x, name)
        return layout or TokenLayout.dense(x, self._samples, name)

    def _layout_of(self, expert: Expert, x: Tensor, name: str) -> RoutedLayout:
        """Layout of the rows that were routed to an expert; both of its maps have the same."""
        if self._routed is None or self._routed[0] is not expert.tokens:
            read = x.new_empty(expert.rows, 1)
            whole = self._layout and self._layout.fitting(read, name)
            whole = whole or TokenLayout.dense(read, self._samples, name)
            self._routed = expert.tokens, RoutedLayout(whole, expert.tokens, expert.rows, name)
        return self._routed[1]
