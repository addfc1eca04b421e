"""Kronecker factors from our taps inside the real curvlinops, against its own."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from typing import Any

import pytest
import torch
from torch import nn

import hosts
from hcnr.errors import HcnrError

ours = hosts.load("curvlinops", "curvlinops.kfac")
pytestmark = pytest.mark.filterwarnings("ignore")  # the tool's own

with hosts.silent():
    from curvlinops import FisherType, GGNLinearOperator, KFACLinearOperator


def operator(*, reduction="mean", sequence=(), fisher_type="empirical", loss=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4))
    if sequence:  # classes come second for cross entropy
        model.append(nn.Unflatten(-1, (4,)))
        model.append(Classes())
    data = [
        (torch.randn(size, *sequence, 5), torch.randint(0, 4, (size, *sequence))) for size in (3, 4)
    ]
    return KFACLinearOperator(
        model, loss or nn.CrossEntropyLoss(reduction=reduction), list(model.parameters()), data,
        fisher_type=fisher_type, check_deterministic=False, **options,
    )  # fmt: skip


class Classes(nn.Module):
    def forward(self, x):
        return x.movedim(-1, 1)


CASES = [
    {"reduction": "mean"},
    {"reduction": "sum"},
    {"reduction": "mean", "sequence": (3,)},
    {"reduction": "sum", "sequence": (3,)},
    {"reduction": "mean", "separate_weight_and_bias": False},
    {"fisher_type": "forward-only"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_and_products_are_curvlinops(case):
    theirs, filled = operator(**case), operator(**case)
    theirs.compute_kronecker_factors()
    weights = [p.detach().clone() for p in filled._model_func.parameters()]
    tables = ours.fill(filled)
    for table, found in tables.items():
        exact = getattr(theirs, f"_{table}")
        assert found.keys() == exact.keys() and len(found) == 3
        for name, own in found.items():
            torch.testing.assert_close(own, exact[name], rtol=1e-4, atol=1e-7)
    vector = torch.randn(theirs.shape[1])
    filled.compute_kronecker_factors = None  # it has them
    torch.testing.assert_close(filled @ vector, theirs @ vector, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(filled.trace, theirs.trace, rtol=1e-4, atol=0)
    for left, right in zip(weights, filled._model_func.parameters(), strict=True):
        assert torch.equal(left, right) and right.requires_grad


def test_bad_input_is_one_sentence():
    with pytest.raises(HcnrError, match="fisher_type is 'mc', expected empirical or forward-only"):
        ours.fill(operator(fisher_type=FisherType.MC))
    with pytest.raises(HcnrError, match="kfac_approx is 'reduce'"):
        ours.fill(operator(kfac_approx="reduce"))
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    images = [(torch.randn(2, 1, 4, 4), torch.tensor([0, 1]))]
    with pytest.raises(HcnrError, match=r"0 is a Conv2d; only nn\.Linear"):
        ours.fill(
            KFACLinearOperator(
                convolution, nn.CrossEntropyLoss(), list(convolution.parameters()), images,
                fisher_type="empirical", check_deterministic=False,
            )
        )  # fmt: skip
    model = nn.Sequential(nn.Linear(5, 4))
    parts: Any = model, nn.CrossEntropyLoss(), list(model.parameters())
    data = [(torch.full((2, 5), float("nan")), torch.tensor([0, 1]))]
    with pytest.raises(HcnrError, match="the loss of batch 0 is nan"):
        ours.fill(
            KFACLinearOperator(*parts, data, fisher_type="empirical", check_deterministic=False)
        )
    other = GGNLinearOperator(*parts, data, check_deterministic=False)
    with pytest.raises(HcnrError, match="the operator is a GGNLinearOperator, expected"):
        ours.fill(other)
