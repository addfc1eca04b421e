"""The exact diagonal of EWC against a float64 loop over samples, and the usual shortcut."""

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import nn

import hosts
from hcnr.errors import HcnrError
from integrations.ewc.diagonal import Consolidation, batch_squared


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))


def samples(count=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    return x, torch.randint(0, 4, (count,), generator=generator)


def batches(size):
    return [(x, y) for x, y in zip(*(part.split(size) for part in samples()), strict=True)]


def loss_of(model, reduction):
    return lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1], reduction=reduction)


def measured(model, size):
    return Consolidation.measure(
        model, batches(size), loss_of(model, "sum"), size=lambda batch: len(batch[1])
    )


def exact(model):
    """Mean of squared single-sample gradients in float64."""
    model = copy.deepcopy(model).double()
    sums = {name: torch.zeros_like(one) for name, one in model.named_parameters()}
    x, y = samples()
    for row, label in zip(x.double(), y, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(row[None]), label[None]).backward()
        for name, one in model.named_parameters():
            sums[name] += one.grad.square()
    return {name: total / len(x) for name, total in sums.items()}


@pytest.mark.parametrize("size", [1, 5, 24])
def test_the_diagonal_is_that_of_the_loop(size):
    model = network()
    found, oracle = measured(model, size).diagonal, exact(model)
    assert found.keys() == oracle.keys()
    for name, own in found.items():
        torch.testing.assert_close(own.double(), oracle[name], rtol=1e-4, atol=1e-9)
    assert all(one.requires_grad and one.grad is None for one in model.parameters())


def test_the_shortcut_is_off_by_what_the_page_says():
    """docs/operators.md: with batches of 8 it is about a seventh of the diagonal here."""
    model = network()
    oracle = exact(model)
    shortcut = batch_squared(model, batches(8), loss_of(model, "mean"), oracle)
    ratio = sum(float(one.sum()) for one in shortcut.values()) / sum(
        float(one.sum()) for one in oracle.values()
    )
    single = batch_squared(model, batches(1), loss_of(model, "mean"), oracle)
    for name, own in single.items():
        torch.testing.assert_close(own.double(), oracle[name], rtol=1e-3, atol=1e-9)
    assert ratio == pytest.approx(0.152, abs=0.01)
    print(f"batch-squared over exact, batches of 8: {ratio:.3f}")


@pytest.mark.parametrize("size", [1, 8])
def test_the_diagonal_beside_avalanches(size):
    """Samples one by one give it the exact diagonal; in batches it squares the mean gradient."""
    hosts.require("avalanche", "make integrations-avalanche")
    with hosts.silent():
        plugin = importlib.import_module("avalanche.training.plugins.ewc").EWCPlugin
    model = network()
    x, y = samples()
    rows: Any = torch.utils.data.TensorDataset(x, y, torch.zeros(len(y)))
    with hosts.silent():
        theirs = plugin(ewc_lambda=1.0).compute_importances(
            model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1), rows, "cpu",
            size,
        )  # fmt: skip
    found = measured(copy.deepcopy(model), size).diagonal
    shortcut = batch_squared(model, batches(size), loss_of(model, "mean"), found)
    assert theirs.keys() == found.keys()
    for name, importance in theirs.items():
        torch.testing.assert_close(importance.data, shortcut[name], rtol=1e-4, atol=1e-9)
        if size == 1:
            torch.testing.assert_close(importance.data, found[name], rtol=1e-3, atol=1e-9)
    share = sum(float(one.data.sum()) for one in theirs.values()) / sum(
        float(one.sum()) for one in found.values()
    )
    assert share == pytest.approx(1.0 if size == 1 else 0.152, abs=0.01)


def test_the_penalty_is_the_quadratic_form():
    model = network()
    anchor = measured(model, 6)
    assert anchor.penalty(model, strength=3.0).item() == 0
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    with torch.no_grad():
        for one in model.parameters():
            one += 0.1 * torch.randn_like(one)
    exact_penalty = 0.0
    value = anchor.penalty(model, strength=3.0)
    for name, one in model.named_parameters():
        own = (one.detach() - before[name]).double().square()
        exact_penalty += 1.5 * float((anchor.diagonal[name].double() * own).sum())
    assert value.item() == pytest.approx(exact_penalty, rel=1e-5)
    value.backward()
    name, one = next(iter(model.named_parameters()))
    torch.testing.assert_close(one.grad, 3 * anchor.diagonal[name] * (one - before[name]).detach())


def test_padding_does_not_count():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])

    def loss(batch):
        return (model(batch).square().sum(-1) * mask).sum()

    found = Consolidation.measure(model, [x], loss, size=len, mask=lambda _: mask)
    total = torch.zeros(2, 3)
    for row, real in zip(x, mask, strict=True):
        weight = model.weight.detach().clone().requires_grad_()
        (row[real.bool()] @ weight.T + model.bias.detach()).square().sum().backward()
        gradient = weight.grad
        assert gradient is not None
        total += gradient.square() / 2
    torch.testing.assert_close(found.diagonal["weight"], total)


def test_bad_input_is_one_sentence():
    model = network()
    anchor = measured(model, 6)
    with pytest.raises(HcnrError, match="strength is -1"):
        anchor.penalty(model, strength=-1)
    with pytest.raises(HcnrError, match=r"0.weight is nothing in this model"):
        anchor.penalty(nn.Linear(2, 2), strength=1)
    with pytest.raises(HcnrError, match="yields no batch"):
        Consolidation.measure(model, [], loss_of(model, "sum"), size=len)
    with pytest.raises(HcnrError, match="must be one finite number"):
        Consolidation.measure(model, batches(4), loss_of(model, "none"), size=lambda b: len(b[1]))
    wrong: Any = (
        (lambda batch: 1.0, "is a float"),
        (lambda batch: torch.tensor(1.0), "is without a graph"),
    )
    for loss, found in wrong:
        with pytest.raises(HcnrError, match=f"the loss of batch 0 {found}"):
            Consolidation.measure(model, batches(4), loss, size=lambda b: len(b[1]))
    with pytest.raises(HcnrError, match=r"the mask of batch 0 is of shape \[4\]"):
        Consolidation.measure(
            model, batches(4), loss_of(model, "sum"), size=lambda b: len(b[1]),
            mask=lambda b: torch.ones(4),
        )  # fmt: skip
    with pytest.raises(HcnrError, match="the batch has 7 samples"):
        Consolidation.measure(model, batches(4), loss_of(model, "sum"), size=lambda b: 7)
    with pytest.raises(HcnrError, match="no matrix"):
        Consolidation.measure(nn.Tanh(), batches(4), loss_of(model, "sum"), size=len)
