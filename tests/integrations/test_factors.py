"""Sums that the adapters share, against float64 loops over single samples."""
# pyright: reportArgumentType=false, reportCallIssue=false

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import oracle
from hcnr.errors import ModelError
from integrations.factors import collect

SIZES = [3, 5, 2, 6, 4]


class Twice(nn.Module):
    """`wide` is used twice, `wide` and `side` share an input in the first use alone."""

    def __init__(self, reentrant=False):
        super().__init__()
        self.wide, self.side, self.back = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)
        self.reentrant = reentrant

    def step(self, x):
        return torch.tanh(self.back(torch.tanh(self.wide(x) + self.side(x))))

    def forward(self, x):
        x = checkpoint(self.step, x, use_reentrant=True) if self.reentrant else self.step(x)
        return self.wide(x)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self, bias=False):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=bias), nn.Linear(4, 4, bias=bias)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Changing(nn.Module):
    """Two layers read one tensor in batches of short samples, and two in others."""

    def __init__(self, again=False):
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(4, 5)
        self.again = again

    def forward(self, x):
        if x.shape[1] < 4:
            return self.one(x) * self.two(x)
        if self.again:
            return self.one(x) * self.two(x * 2) + self.one(x * 0.5)
        return self.one(x) * self.two(x * 2)


MODELS = {
    "twice": Twice,
    "recomputed": lambda: Twice(reentrant=True),
    "tied": Tied,
    "changing": Changing,
    "again": lambda: Changing(again=True),
}


def batches():
    """One sample each, of other lengths."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, size, 4, generator=generator).requires_grad_() for size in SIZES]


def loss(model, x):
    return model(x).pow(2).sum()


def exact(model, layers, bias):
    """Sums over all uses of each weight, and squares of the samples' gradients."""
    double = copy.deepcopy(model).double()
    double.reentrant = False
    found = {name: [0.0, 0.0, 0.0] for name in layers}
    names = {id(double.get_submodule(name).weight): name for name in layers}
    seen = []

    def keep(module, args, output):
        if id(module.weight) in names:
            output.retain_grad()
            seen.append((names[id(module.weight)], args[0], output))

    for module in double.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(keep)
    for x in batches():
        seen.clear()
        loss(double, x.double()).backward()
        gradients = dict.fromkeys(layers, 0.0)
        for name, rows, y in seen:
            rows, g = rows[0].detach(), y.grad[0]
            if bias and layers[name].bias is not None:
                rows = torch.cat([rows, torch.ones(len(rows), 1).double()], 1)
            found[name][0] += rows.T @ rows
            found[name][1] += g.T @ g
            gradients[name] = gradients[name] + g.T @ rows
        for name, g in gradients.items():
            found[name][2] += g**2
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_sums_are_over_all_uses_of_a_weight(kind, bias):
    torch.manual_seed(0)
    model = MODELS[kind]()
    names = ["first"] if kind == "tied" else [n for n, _ in model.named_children()]
    layers = {name: model.get_submodule(name) for name in names}
    found = collect(
        model, layers, batches(), lambda x: loss(model, x), size=len,
        parts=("input", "gradient", "diagonal"), bias=bias,
    )  # fmt: skip
    assert found.samples == len(SIZES)
    for name, (inputs, gradients, diagonal) in exact(model, layers, bias).items():
        assert oracle.relative(found.input[name], inputs) <= 1e-5, name
        assert oracle.relative(found.gradient[name], gradients) <= 1e-5, name
        assert oracle.relative(found.diagonal[name], diagonal) <= 1e-5, name


def test_layers_that_always_read_one_tensor_share_its_sum():
    model = nn.ModuleDict({"one": nn.Linear(4, 5), "two": nn.Linear(4, 5)})
    found = collect(
        model, dict(model), batches(), lambda x: (model["one"](x) * model["two"](x)).sum(), size=len
    )
    assert found.input["one"] is found.input["two"]


def test_layers_of_one_weight_are_refused():
    tied = Tied()
    with pytest.raises(ModelError, match="first and second are one weight"):
        collect(tied, dict(tied.named_children()), batches(), lambda x: loss(tied, x), size=len)
    tied = Tied(bias=True)
    with pytest.raises(ModelError, match="the weight of first is that of another layer too"):
        collect(tied, {"first": tied.first}, batches(), lambda x: loss(tied, x), size=len)


def test_a_layer_that_leads_without_a_gradient_of_its_own_is_told():
    model = nn.ModuleDict({"one": nn.Linear(4, 5), "two": nn.Linear(4, 5)})

    def partly(x):
        one, two = model["one"](x), model["two"](x)
        return two.sum() if x.shape[1] < 4 else (one * two).sum()

    with pytest.raises(ModelError, match="two reads a tensor together with other layers in some"):
        collect(model, dict(model), batches(), partly, size=len)
