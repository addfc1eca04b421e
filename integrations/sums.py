"""What the batches of a loader add up to, use by use: the sums of `factors.collect`."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from hcnr.curvature.layouts import SharedInput
from hcnr.curvature.uses import Use, Uses, joined
from hcnr.errors import ModelError
from hcnr_kernels import fisher_weight_, gram_, symmetrize_

Part = Literal["input", "gradient", "diagonal"]


class FactorSums:
    """Sums of the parts asked for.

    Attributes:
        tokens: layer -> real tokens it has seen.
        leaders: layer that took part -> the one whose sum over inputs is its own, too.
    """

    def __init__(
        self, layers: Mapping[str, nn.Linear], parts: tuple[Part, ...], *, bias: bool
    ) -> None:
        self._layers, self._parts, self._bias = layers, parts, bias
        self._sums: dict[Part, dict[str, Tensor]] = {"input": {}, "gradient": {}, "diagonal": {}}
        self._uses = Uses()
        self.tokens = dict.fromkeys(layers, 0)
        self._summed = dict.fromkeys(layers, 0)
        self.leaders: dict[str, str] = {}

    def consume(self, name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
        """Add one use of a layer."""
        layout = shared.layout
        own, leads = (self._augmented(one) for one in (name, shared.leader))
        leader = shared.leader if own == leads else name
        if self.leaders.setdefault(name, leader) != leader:
            raise _parted(name)
        self.tokens[name] += int(layout.tokens)
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
        for name, _, uses in self._uses.rest():
            self._square(name, uses)

    def part(self) -> None:
        """Give each layer a sum over inputs of its own from here on; no backward pass is open."""
        inputs = self._sums["input"]
        for name, leader in self.leaders.items():
            if leader != name and leader in inputs:
                inputs[name] = inputs[leader].clone()
            self._summed[name] = self.tokens[name]
            self.leaders[name] = name

    def factors(self) -> dict[Part, dict[str, Tensor]]:
        """All sums, in the order of the layers; backward has met them from the end."""
        sums: dict[Part, dict[str, Tensor]] = {
            part: {name: own[name] for name in self._layers if name in own}
            for part, own in self._sums.items()
        }
        for gram in (*sums["input"].values(), *sums["gradient"].values()):
            symmetrize_(gram)
        if "input" in self._parts:
            for name, leader in self.leaders.items():
                if self._summed[leader] != self.tokens[name]:
                    raise _parted(name)
            sums["input"] = {name: sums["input"][self.leaders[name]] for name in self._layers}
        return sums

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
