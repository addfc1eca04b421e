"""Weights inside the transformer blocks that no repair reaches, named with their share."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from hcnr.models.experts import holds_experts, projections
from hcnr.models.linear import is_linear
from hcnr.models.model import transformer_blocks

NAMED = 4
"""Kinds of weights that a sentence names."""


@dataclass(frozen=True)
class Reach:
    """What stays out of reach: weights of two dimensions and more that are no matrix of a target.

    Attributes:
        names: of the parameters, in the model's order; such as experts of a form of their own.
        parameters: numbers that they hold.
        share: of all weights of two dimensions and more inside the blocks, 0 to 1.
    """

    names: tuple[str, ...]
    parameters: int
    share: float

    @property
    def kinds(self) -> str:
        """Their names without the blocks' numbers, each once, such as `mlp.experts.down_proj`."""
        return _listed(dict.fromkeys(_kind(name) for name in self.names))

    @property
    def sentence(self) -> str:
        """What a run says of it."""
        return (
            f"{len(self.names)} weights inside the blocks are no linear layers and stay as tuned "
            f"({self.kinds}): {self.share:.1%} of the blocks' weights are out of reach"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "names": list(self.names), "kinds": self.kinds}


def out_of_reach(model: nn.Module) -> Reach | None:
    """Find the weights inside a model's blocks that are no linear layers; None where all are.

    Norms and biases have one dimension and are no weights here. The model may be on the meta
    device.
    """
    blocks = transformer_blocks(model)
    if blocks is None:
        return None
    reached = set()
    for name, module in model.named_modules():
        if is_linear(module):
            reached.add(f"{name}.weight")
        elif holds_experts(module):
            reached.update(f"{name}.{own}" for own in projections(module))
    inside = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(f"{blocks}.") and parameter.dim() > 1
    }
    names = tuple(name for name in inside if name not in reached)
    if not names:
        return None
    parameters = sum(inside[name] for name in names)
    return Reach(names, parameters, parameters / sum(inside.values()))


def _kind(name: str) -> str:
    """A parameter's name behind the number of its block."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else name


def _listed(kinds: Iterable[str]) -> str:
    known = list(kinds)
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return ", ".join(known[:NAMED]) + more
