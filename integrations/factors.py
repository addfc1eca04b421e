"""Sums of per-sample curvature over a loader, from taps: what the adapters share.

One forward and one backward pass per batch, no weight gradient; needs hcnr and torch alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.layouts import TokenLayout
from hcnr.curvature.taps import InputsDiffer, Taps, frozen
from hcnr.errors import DataError, ModelError
from hcnr.models.linear import identity_of, sharing_layers
from integrations.sums import FactorSums, Part


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
    sums = FactorSums(layers, parts, bias=bias)
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
    return Factors(**sums.factors(), tokens=sums.tokens, samples=samples)


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
        what = f"a {type(value).__name__}"
    elif value.dim():
        what = f"of shape {list(value.shape)}"
    elif not value.isfinite():
        what = f"{value.item()}"
    elif not value.requires_grad:
        what = "without a graph, detached or of another model"
    else:
        return
    raise DataError(
        f"the loss of batch {number} is {what}; it must be one finite number, the sum of the "
        "losses of its samples, as a tensor with its graph"
    )
