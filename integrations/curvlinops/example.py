"""`python -m integrations.curvlinops.example`: our factors beside curvlinops', with times."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import warnings

import torch
from curvlinops import KFACLinearOperator
from torch import nn

from integrations.curvlinops.kfac import fill
from integrations.tiny import race


def operator() -> KFACLinearOperator:
    """KFAC of the empirical Fisher matrix of a small network on random data."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
                            nn.Linear(512, 10))  # fmt: skip
    data = [(torch.randn(128, 256), torch.randint(0, 10, (128,))) for _ in range(4)]
    return KFACLinearOperator(
        network, nn.CrossEntropyLoss(), list(network.parameters()), data,
        fisher_type="empirical", check_deterministic=False,
    )  # fmt: skip


def run() -> None:
    """Compare factors, products and times."""
    warnings.simplefilter("ignore")
    theirs, ours = operator(), operator()
    seconds = race({"theirs": theirs.compute_kronecker_factors, "ours": lambda: fill(ours)})
    theirs = operator()
    theirs.compute_kronecker_factors()
    vector = torch.randn(theirs.shape[1])
    exact, computed = theirs @ vector, ours @ vector
    error = float(torch.as_tensor(computed - exact).norm() / torch.as_tensor(exact).norm())
    print(
        f"products differ by {error:.1e}, curvlinops takes "
        f"{seconds['theirs'] / seconds['ours']:.2f} times as long ({seconds['theirs']:.3f} s, "
        f"ours {seconds['ours']:.3f} s)"
    )


if __name__ == "__main__":
    run()
