"""Routes of tokens, recorded in one pass and followed in another, by hand."""

import torch

from families import make
from hcnr.curvature.routes import Routes
from hcnr.data.batches import collate
from hcnr.data.tokens import TokenizedSample

SAMPLES = (TokenizedSample((3, 4, 5), 1), TokenizedSample((6, 7), 1))
FIRST = torch.tensor([[0, 1], [2, 3], [4, 5], [1, 0], [3, 2], [0, 0]])
"""Experts of both samples' tokens, three each; the last one is padding."""


def batch_of(*indices):
    return collate(SAMPLES, indices, pad_token_id=0)


def shares(start, rows=6):
    return (torch.arange(2.0 * rows).view(rows, 2) + start).requires_grad_()


def recorded():
    routes = Routes(make("mixtral"))
    found = routes._routed("one", batch_of(0, 1), FIRST, shares(0))
    assert torch.equal(found[0], FIRST), "recording changes nothing"
    routes.mode = "follow"
    return routes


def test_only_tokens_whose_experts_changed_follow_the_first_route():
    routes = recorded()
    other = FIRST.clone()
    other[1] = torch.tensor([2, 6])  # of sample 0: another expert
    other[3] = torch.tensor([0, 1])  # of sample 1: the same two in another order
    given = shares(100)
    experts, weights = routes._routed("one", batch_of(0, 1), other, given)
    assert torch.equal(experts[1], FIRST[1]) and torch.equal(experts[3], other[3])
    assert weights[1].tolist() == [2.0, 3.0], "with the shares of then"
    assert torch.equal(weights[[0, 2, 3, 4]], given[[0, 2, 3, 4]])
    weights.sum().backward()
    assert given.grad is not None
    assert given.grad[:5, 0].tolist() == [1, 0, 1, 1, 1], "which carry no gradient"
    assert (routes.changed, routes.seen, routes.share) == (1, 5, 0.2)


def test_a_pass_that_holds_lets_the_same_tokens_carry_no_gradient():
    routes = recorded()
    other = FIRST.clone()
    other[1] = torch.tensor([2, 6])
    routes._routed("one", batch_of(0, 1), other, shares(100))
    routes.mode = "hold"
    given = shares(0, rows=3)
    experts, weights = routes._routed("one", batch_of(0), FIRST[:3], given)
    assert torch.equal(experts, FIRST[:3]) and torch.equal(weights, given)
    weights.sum().backward()
    assert given.grad is not None and given.grad[:, 0].tolist() == [1, 0, 1]
