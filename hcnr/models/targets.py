"""The matrices that may be repaired, and the weights beside them that no repair reaches."""

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import nn

from hcnr.errors import ModelError
from hcnr.models.experts import holds_experts, projections, slices
from hcnr.models.linear import identity_of, is_linear, kind_of

NAMED = 4
"""Kinds of weights that a sentence names."""


def transformer_blocks(model: nn.Module) -> str | None:
    """Name of the module list that holds the transformer blocks, or None where there is none.

    It is the list with as many members as the config says there are layers or, where no list has
    (a model that was cut by hand), any; among those, the one with the most parameters. Of a
    multimodal model the lists beside the text's embedding alone count: towers are not the blocks,
    also where they stand below the text's own module. Modules that are no transformers models have
    no blocks.
    """
    config = getattr(model, "config", None)
    if config is None:
        return None
    beside = ""
    if hasattr(config, "get_text_config"):
        text = config.get_text_config()
        if text is not config:
            beside = _text_prefix(model)
        config = text
    layers = getattr(config, "num_hidden_layers", None)
    towers = _towers(model, config)
    ranks = {
        name: (
            not name.startswith(towers),
            len(module) == layers,
            sum(p.numel() for p in module.parameters()),
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(beside)
    }
    return max(ranks, key=lambda name: ranks[name]) if ranks else None


def _towers(model: Any, text: object) -> tuple[str, ...]:
    """Prefixes of the models inside a model whose configuration is of another kind than its text's.

    Such as what reads its images (GIT) or its sounds (Phi-4 multimodal).
    """
    own = (type(model.config), type(text))
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if name and hasattr(module, "base_model_prefix") and type(module.config) not in own
    )


def _text_prefix(model: Any) -> str:
    """Prefix of everything that stands in one module with a multimodal model's text embedding.

    Empty where no list of layers does, and any may be the blocks.
    """
    embedding = model.get_input_embeddings()
    embedded = next((name for name, module in model.named_modules() if module is embedding), "")
    prefix = embedded.rpartition(".")[0] + "." if "." in embedded else ""
    lists = (name for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    return prefix if any(name.startswith(prefix) for name in lists) else ""


def target_matrices(
    model: nn.Module, targets: Iterable[str] = ("*",), ignore: Iterable[str] = ()
) -> dict[str, nn.Linear]:
    """List the matrices to work on: every linear layer inside the transformer blocks.

    These are `nn.Linear`s, the transposed maps of GPT-2 and the maps of single experts, see
    `hcnr.models.linear`. A module without a list of blocks offers all of them. Names are the
    model's without `.weight`, an expert's end in its number. Layers that hold one weight (Zamba's
    shared blocks) are one matrix, under the name of the first. `targets` and `ignore`
    are glob patterns on whole names or their ends (`q_proj` means `*.q_proj`).

    Returns:
        Name -> layer, in the model's order.

    Raises:
        ModelError: nothing matched; the candidates are listed.
    """
    blocks = transformer_blocks(model)
    prefix = "" if blocks is None else f"{blocks}."
    head = getattr(model, "get_output_embeddings", lambda: None)()
    candidates: dict[str, nn.Linear] = {}
    known: set[tuple[int, int]] = set()
    for name, module in model.named_modules():
        if not name.startswith(prefix) or module is head:
            continue
        if is_linear(module):
            if identity_of(module) not in known:
                candidates[name] = cast(nn.Linear, module)
            known.add(identity_of(module))
        elif holds_experts(module):
            for own, layer in slices(module).items():
                candidates[f"{name}.{own}"] = cast(nn.Linear, layer)
    targets, ignore = tuple(targets), tuple(ignore)
    chosen = {
        name: module
        for name, module in candidates.items()
        if _matches(name, targets) and not _matches(name, ignore)
    }
    if not chosen:
        where = f"inside {blocks}" if blocks else f"in {type(model).__name__}"
        kinds = sorted({kind_of(name) for name in candidates})
        available = f"the candidates are {', '.join(kinds)}" if kinds else "it has no linear layer"
        raise ModelError(
            f"no matrix {where} matches targets {list(targets)} without ignore {list(ignore)}: "
            f"{available}"
        )
    return chosen


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")
        for pattern in patterns
    )


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
