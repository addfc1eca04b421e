"""Models that use matrices several times, or another number of times from sample to sample."""

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaMLP

from families import make, tokens
from hcnr.curvature.moments import curvature, second_moments
from hcnr.curvature.scores import score
from hcnr.models.targets import target_matrices

DATA = tokens(9, seed=3)
LONG = sorted(DATA.lengths)[len(DATA) // 2]
"""Tokens of a batch from which on `Changing` goes another way."""


class Revisiting(LlamaMLP):
    """Three uses of the same matrices, with a shared input in some of them only."""

    def forward(self, x):
        alone = self.up_proj(x * 0.5)
        return super().forward(x) + self.down_proj(self.act_fn(alone) * self.gate_proj(x))


class Changing(LlamaMLP):
    """The two matrices that read one tensor read two in long batches, and one is used again."""

    def forward(self, x):
        if x.shape[1] < LONG:
            return super().forward(x)
        other = self.up_proj(x * 0.5) + self.up_proj(x * 2)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * other)


class Parting(LlamaMLP):
    """The two matrices that read one tensor read two in long batches."""

    def forward(self, x):
        if x.shape[1] < LONG:
            return super().forward(x)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x * 0.5))


class Unheard(LlamaMLP):
    """Of the two matrices that read one tensor, the first gets no gradient in long batches."""

    def forward(self, x):
        gate = self.gate_proj(x)
        if x.shape[1] >= LONG:
            gate = gate.detach()
        return self.down_proj(self.act_fn(gate) * self.up_proj(x))


def revisiting():
    """The first block is `Revisiting`, and the second holds one weight of the first."""
    model = make("llama")
    first, second = (layer.mlp for layer in model.model.layers)
    second.up_proj.weight = first.up_proj.weight
    first.__class__ = Revisiting
    return model


def changing(kind: type):
    """Both blocks are of a kind that goes another way in long batches."""
    model = make("llama")
    for layer in model.model.layers:
        layer.mlp.__class__ = kind
    return model


MODELS = {
    "revisiting": revisiting,
    "changing": lambda: changing(Changing),
    "parting": lambda: changing(Parting),
}


def measured(name: str, **settings: Any) -> dict[str, Tensor]:
    """All that is measured of the matrices of such a model, each sample alone."""
    model = MODELS[name]()
    layers = target_matrices(model, ["mlp.*"])
    settings = {"token_budget": 1, **settings}
    found: dict[str, Tensor] = {}
    for matrix, one in second_moments(model, layers, DATA, **settings).items():
        found[f"{matrix} inputs"], found[f"{matrix} gradients"] = one.dense()
    for axis in ("input", "output"):
        for matrix, gram in curvature(model, layers, DATA, axis=axis, **settings).items():
            found[f"{matrix} {axis}"] = gram
        for matrix, scores in score(model, layers, DATA, axis=axis, **settings).mean.items():
            found[f"{matrix} scores {axis}"] = scores
    return found
