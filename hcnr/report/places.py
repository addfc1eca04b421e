"""Where a matrix sits in the model, read from its name."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Block and kind of a matrix: 3 and `q_proj` for `model.layers.3.self_attn.q_proj`.

    Attributes:
        block: None for a matrix outside the numbered blocks.
        kind: what matrices of the same role share in all blocks; experts share theirs too.
    """

    block: int | None
    kind: str


def places(names: Iterable[str]) -> dict[str, Place]:
    """Place of every matrix; kinds are cut to their last part where that stays unambiguous."""
    found = {name: _place(name) for name in names}
    kinds = {place.kind for place in found.values()}
    short = {kind: kind.rsplit(".", 1)[-1] for kind in kinds}
    if len(set(short.values())) < len(kinds):
        return found
    return {name: Place(place.block, short[place.kind]) for name, place in found.items()}


def _place(name: str) -> Place:
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.isdecimal():
            rest = ("*" if p.isdecimal() else p for p in parts[index + 1 :])
            return Place(int(part), ".".join(rest))
    return Place(None, name)
