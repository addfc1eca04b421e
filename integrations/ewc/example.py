"""`python -m integrations.ewc.example`: two tasks in a row, without and with the exact penalty."""

from functools import partial

import torch
from torch import Tensor, nn

from integrations.ewc.diagonal import Consolidation, batch_squared

Batch = tuple[Tensor, Tensor]


def task(seed: int) -> list[Batch]:
    """Batches of points, labelled by the side of a plane they are on."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(16, generator=generator)
    x = torch.randn(256, 16, generator=generator)
    return list(zip(x.split(32), (x @ normal > 0).long().split(32), strict=True))


def train(network: nn.Module, batches: list[Batch], anchor: Consolidation | None) -> None:
    """Thirty epochs; with an anchor its penalty is added."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(30):
        for x, y in batches:
            loss = nn.functional.cross_entropy(network(x), y)
            if anchor is not None:
                loss = loss + anchor.penalty(network, strength=200.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(network: nn.Module, batches: list[Batch]) -> float:
    """Share of right labels."""
    right = [(network(x).argmax(1) == y).float().mean() for x, y in batches]
    return float(torch.stack(right).mean())


def run() -> None:
    """Forgetting with and without the penalty, and what the shortcut gets wrong."""
    first, second = task(0), task(1)
    for penalised in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 2))
        train(network, first, None)

        def loss(batch: Batch, reduction: str = "sum", network: nn.Module = network) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(network(x), y, reduction=reduction)

        anchor = Consolidation.measure(network, first, loss, size=lambda batch: len(batch[1]))
        if not penalised:
            means = partial(loss, reduction="mean")
            shortcut = batch_squared(network, first, means, anchor.diagonal)
            ratio = total(shortcut) / total(anchor.diagonal)
            print(f"squared gradients of batches of 32: {ratio:.3f} of the exact diagonal")
        train(network, second, anchor if penalised else None)
        print(
            f"{'with' if penalised else 'without'} the penalty: first task "
            f"{accuracy(network, first):.2f}, second {accuracy(network, second):.2f}"
        )


def total(diagonal: dict[str, Tensor]) -> float:
    """Sum over all parameters."""
    return sum(float(one.sum()) for one in diagonal.values())


if __name__ == "__main__":
    run()
