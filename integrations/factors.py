"""Sums of per-sample curvature over a loader, from taps: what the adapters share.

One forward and one backward pass per batch, no weight gradient; needs hcnr and torch alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.layouts import TokenLayout, Use, joined
from hcnr.curvature.taps import InputsDiffer, SharedInput, Taps, frozen
from hcnr.curvature.uses import Uses
from hcnr.errors import DataError, ModelError
from hcnr.models.linear import identity_of, sharing_layers
from hcnr_kernels import fisher_weight_, gram_, symmetrize_

Part = Literal["input", "gradient", "diagonal"]


class Factors(NamedTuple):
    """Sums, not means; a layer with a bias has one input more, which is 1.

    Attributes:
        input: layer -> `sum_t x_t x_t^T` `[in (+ 1), in (+ 1)]` fp32; layers that read one tensor
            share one tensor.
        gradient: layer -> `sum_t g_t g_t^T` `[out, out]` fp32.
        diagonal: layer -> `sum_b G_b^2` `[out, in (+ 1)]` fp32, squared per sample.
        tokens: layer -> real tokens it has seen.
        samples: samples seen.
    """

    input: dict[str, Tensor]
    gradient: dict[str, Tensor]
    diagonal: dict[str, Tensor]
    tokens: dict[str, int]
    samples: int


def collect(
    model: nn.Module,
    layers: Mapping[str, nn.Linear],
    batches: Iterable[Any],
    loss: Callable[[Any], Tensor],
    *,
    size: Callable[[Any], int],
    mask: Callable[[Any], Tensor | None] = lambda _: None,
    parts: tuple[Part, ...] = ("input", "gradient"),
    bias: bool = True,
) -> Factors:
    """Run `loss` on every batch and add up what was asked for.

    Args:
        model: any module; its parameters need no gradient meanwhile, and it is left as it was.
        layers: its linear layers by name.
        batches: whatever `loss` takes.
        loss: the SUM of the losses of a batch's samples, a scalar with a graph.
        size: samples of a batch.
        mask: `[B, T]`, non-zero on real tokens, or None where there is no padding.
        parts: which sums to form.
        bias: treat the bias of a layer as one more input.

    Raises:
        DataError: there is no batch, or a loss is not finite.
        ModelError: a layer took no part, or its rows belong to no sample in order.
    """
    _check_shared(model, layers, bias=bias)
    sums = _Sums(layers, parts, bias=bias)
    # Where one is used again, no two are sure to read the same; what was summed is told apart too.
    apart: set[str] = set()
    taps = Taps(layers, on_gradient=sums.consume, model=model, apart=apart)
    samples = 0
    with torch.enable_grad(), frozen(model), taps:
        for number, batch in enumerate(batches):
            real, count = mask(batch), size(batch)
            if real is not None and real.dim() != 2:
                raise DataError(
                    f"the mask of batch {number} is of shape {list(real.shape)}; it must be "
                    "[samples, tokens], non-zero on real tokens"
                )
            layout = None if real is None else TokenLayout(real)
            taps.begin(layout, count)
            value = loss(batch)
            try:
                taps.end()
            except InputsDiffer:
                apart.update(layers)
                sums.part()
                taps.begin(layout, count)
                value = loss(batch)
                taps.end()
            _check_loss(value, number)
            value.backward()
            sums.finish()
            samples += count
    if not samples:
        raise DataError("the loader yields no batch; give it at least one")
    if silent := [name for name in layers if name not in sums.leaders]:
        raise ModelError(f"{silent[0]} took no part in the loss; leave it out of the layers")
    return sums.factors(samples)


class _Sums:
    """What the batches add up to."""

    def __init__(
        self, layers: Mapping[str, nn.Linear], parts: tuple[Part, ...], *, bias: bool
    ) -> None:
        self._layers, self._parts, self._bias = layers, parts, bias
        self._sums: dict[str, dict[str, Tensor]] = {"input": {}, "gradient": {}, "diagonal": {}}
        self._uses = Uses()
        self._tokens = dict.fromkeys(layers, 0)
        self._summed = dict.fromkeys(layers, 0)
        self.leaders: dict[str, str] = {}

    def consume(self, name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
        """Add one use of a layer."""
        layout = shared.layout
        own, leads = (self._augmented(one) for one in (name, shared.leader))
        leader = shared.leader if own == leads else name
        if self.leaders.setdefault(name, leader) != leader:
            raise _parted(name)
        self._tokens[name] += int(layout.tokens)
        if own:
            x = torch.cat([x, x.new_ones(x.shape[0], 1)], 1)
        if "input" in self._parts and self.leaders[name] == name:
            self._summed[name] += int(layout.tokens)
            gram_(self._at("input", name, x.shape[1], x.shape[1], x), layout.real(x))
        if "gradient" in self._parts:
            gram_(self._at("gradient", name, g.shape[1], g.shape[1], g), layout.real(g))
        if "diagonal" in self._parts and (uses := self._uses.add(name, shared, x, g)):
            self._square(name, uses)

    def finish(self) -> None:
        """Take note that a backward pass is over."""
        for name, uses in self._uses.rest():
            self._square(name, uses)

    def part(self) -> None:
        """Give each layer a sum over inputs of its own from here on; no backward pass is open."""
        inputs = self._sums["input"]
        for name, leader in self.leaders.items():
            if leader != name and leader in inputs:
                inputs[name] = inputs[leader].clone()
            self._summed[name] = self._tokens[name]
            self.leaders[name] = name

    def factors(self, samples: int) -> Factors:
        """All sums, in the order of the layers; backward has met them from the end."""
        sums = {
            part: {name: own[name] for name in self._layers if name in own}
            for part, own in self._sums.items()
        }
        for part in ("input", "gradient"):
            for gram in sums[part].values():
                symmetrize_(gram)
        if "input" in self._parts:
            for name, leader in self.leaders.items():
                if self._summed[leader] != self._tokens[name]:
                    raise _parted(name)
            sums["input"] = {name: sums["input"][self.leaders[name]] for name in self._layers}
        return Factors(**sums, tokens=self._tokens, samples=samples)

    def _augmented(self, name: str) -> bool:
        return self._bias and self._layers[name].bias is not None

    def _square(self, name: str, uses: list[Use]) -> None:
        """Add the squares of the samples' gradients, each the sum over a layer's uses."""
        x, g = uses[0].x, uses[0].g
        spans = uses[0].layout.cu_seqlens, uses[0].layout.seqused
        if len(uses) > 1:
            x, g, offsets, _ = joined(uses)
            spans = offsets, None
        diagonal = self._at("diagonal", name, g.shape[1], x.shape[1], g)
        fisher_weight_(diagonal, x, g, spans[0], seqused=spans[1])

    def _at(self, part: Part, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        sums = self._sums[part]
        if name not in sums:
            sums[name] = torch.zeros(rows, columns, dtype=torch.float32, device=like.device)
        return sums[name]


def _parted(name: str) -> ModelError:
    return ModelError(
        f"{name} reads a tensor together with other layers in some batches and not in others, or "
        "one of them gets no gradient; call for its factors alone"
    )


def _check_shared(model: nn.Module, layers: Mapping[str, nn.Linear], *, bias: bool) -> None:
    """Refuse layers of one weight, whose gradient is that of all together, told as several.

    Raises:
        ModelError: naming them.
    """
    names: dict[tuple[int, int], str] = {}
    for name, layer in layers.items():
        if (other := names.setdefault(identity_of(layer), name)) != name:
            raise ModelError(
                f"{other} and {name} are one weight, whose gradient is that of both together; name "
                "one of them"
            )
    for name, others in sharing_layers(model, layers).items() if bias else ():
        own = layers[name].bias
        if any(getattr(other, "bias", None) is not own for other in others):
            raise ModelError(
                f"the weight of {name} is that of another layer too, which has another bias, so no "
                "factor holds both; leave the layer out, or its bias (bias=False)"
            )


def _check_loss(value: Any, number: int) -> None:
    """Refuse what cannot be taken a gradient of."""
    if not isinstance(value, Tensor):
        found = f"a {type(value).__name__}"
    elif value.dim():
        found = f"of shape {list(value.shape)}"
    elif not value.isfinite():
        found = f"{value.item()}"
    elif not value.requires_grad:
        found = "without a graph, detached or of another model"
    else:
        return
    raise DataError(
        f"the loss of batch {number} is {found}; it must be one finite number, the sum of the "
        "losses of its samples, as a tensor with its graph"
    )
