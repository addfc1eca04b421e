"""Sums of per-sample curvature over a loader, from taps: what the adapters share.

One forward and one backward pass per batch, no weight gradient; needs hcnr and torch alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.layouts import TokenLayout
from hcnr.curvature.taps import SharedInput, Taps, frozen
from hcnr.errors import DataError, ModelError
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
    sums: dict[str, dict[str, Tensor]] = {part: {} for part in ("input", "gradient", "diagonal")}
    leaders: dict[str, str] = {}
    tokens = dict.fromkeys(layers, 0)
    samples = 0

    def consume(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
        layout = shared.layout
        tokens[name] += int(layout.tokens)
        own, leads = (bias and layers[one].bias is not None for one in (name, shared.leader))
        leaders[name] = shared.leader if own == leads else name
        if own:
            x = torch.cat([x, x.new_ones(x.shape[0], 1)], 1)
        if "input" in parts and leaders[name] == name:
            gram_(_at(sums["input"], name, x.shape[1], x.shape[1], x), layout.real(x))
        if "gradient" in parts:
            gram_(_at(sums["gradient"], name, g.shape[1], g.shape[1], g), layout.real(g))
        if "diagonal" in parts:
            diagonal = _at(sums["diagonal"], name, g.shape[1], x.shape[1], g)
            fisher_weight_(diagonal, x, g, layout.cu_seqlens, seqused=layout.seqused)

    with torch.enable_grad(), frozen(model), Taps(layers, on_gradient=consume) as taps:
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
            taps.end()
            _check_loss(value, number)
            value.backward()
            samples += count
    if not samples:
        raise DataError("the loader yields no batch; give it at least one")
    if silent := [name for name in layers if name not in leaders]:
        raise ModelError(f"{silent[0]} took no part in the loss; leave it out of the layers")
    for part in ("input", "gradient"):
        for gram in sums[part].values():
            symmetrize_(gram)
    # In the order of the layers; backward has met them from the end.
    sums = {part: {name: own[name] for name in layers if name in own} for part, own in sums.items()}
    if "input" in parts:
        sums["input"] = {name: sums["input"][leaders[name]] for name in layers}
    return Factors(**sums, tokens=tokens, samples=samples)


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


def _at(sums: dict[str, Tensor], name: str, rows: int, columns: int, like: Tensor) -> Tensor:
    if name not in sums:
        sums[name] = torch.zeros(rows, columns, dtype=torch.float32, device=like.device)
    return sums[name]
