"""Padded tokens and work items of whole sets of samples, counted: `python -m bench.padding`.

No clock and no model: micro-batches of 8192 padded tokens as `score` plans them, and the items of
the quadratic kernel on them. Lengths are drawn from a fixed seed.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from hcnr.data.batches import plan_batches
from hcnr_kernels.chunks import round_up
from hcnr_kernels.triton import tiles
from hcnr_kernels.triton.items import items_of

BUDGET = 8192


class Padding(NamedTuple):
    """What the micro-batches of some samples come to.

    Attributes:
        batches: how many.
        tokens: padded tokens.
        spread: items of the quadratic kernel where no length is known.
        items: those that are started.
        exact: tiles that there are.
    """

    batches: int
    tokens: int
    spread: int
    items: int
    exact: int

    def plus(self, other: "Padding") -> "Padding":
        return Padding(*(one + two for one, two in zip(self, other, strict=True)))


def counted(lengths: Sequence[int]) -> Padding:
    total = Padding(0, 0, 0, 0, 0)
    for members in plan_batches(lengths, BUDGET):
        some = [lengths[index] for index in members]
        tokens, count = max(some) * len(some), len(some)
        tile = tiles.quadratic_tile("planes", tokens / count, 90).m
        items = items_of(tokens, count, tile, round_up(max(some), 16)).total
        exact = sum(tiles.divide_up(one, tile) for one in some)
        total = total.plus(Padding(1, tokens, tokens // tile + count, items, exact))
    return total


def sets() -> dict[str, list[int]]:
    """Name -> lengths."""
    source = random.Random(0)

    def drawn(count: int, middle: int, spread: float) -> list[int]:
        values = (round(math.exp(source.gauss(math.log(middle), spread))) for _ in range(count))
        return [min(1500, max(8, value)) for value in values]

    return {
        "128 of 256 tokens": [256] * 128,
        "128, log-normal around 60": drawn(128, 60, 0.5),
        "128, log-normal around 200": drawn(128, 200, 0.6),
        "128, uniform from 100 to 300": [source.randint(100, 300) for _ in range(128)],
        "2000, log-normal around 120": drawn(2000, 120, 0.6),
    }


def main() -> None:
    print("| set | tokens | padded, a pass for each half | padded, one pass "
          "| items, no length known | started | exact |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, lengths in sets().items():
        halves = counted(lengths[::2]).plus(counted(lengths[1::2]))
        whole = counted(lengths)
        cells = (sum(lengths), halves.tokens, whole.tokens, whole.spread, whole.items, whole.exact)
        print(f"| {name} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
