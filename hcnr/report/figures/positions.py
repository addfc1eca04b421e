"""Where a matrix sits in the model, read from its name."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Position:
    """Block and kind of a matrix: 3 and `q_proj` for `model.layers.3.self_attn.q_proj`.

    Attributes:
        block: None for a matrix outside the numbered blocks.
        kind: what matrices of the same role share in all blocks; experts share theirs too.
    """

    block: int | None
    kind: str


RECORDED = "; hcnr_report.json has all"
"""Behind what a table of many matrices shows of them."""


def positions(names: Iterable[str]) -> dict[str, Position]:
    """Position of every matrix; kinds are cut to their last part where that stays unambiguous."""
    placed = {name: _position(name) for name in names}
    kinds = {position.kind for position in placed.values()}
    short = {kind: kind.rsplit(".", 1)[-1] for kind in kinds}
    if len(set(short.values())) < len(kinds):
        return placed
    return {
        name: Position(position.block, short[position.kind]) for name, position in placed.items()
    }


class MatrixGrid(NamedTuple):
    """Matrices by kind and block.

    Attributes:
        rows: kinds, in the order in which they come.
        columns: blocks from first to last; `other` for what is outside the numbered ones.
        groups: matrices by row and column; experts of a block share a place.
    """

    rows: list[str]
    columns: list[str]
    groups: dict[tuple[int, int], list[str]]


def grid(names: Iterable[str]) -> MatrixGrid:
    """Put matrices into rows of their kind and columns of their block."""
    placed = positions(names)
    rows = list(dict.fromkeys(position.kind for position in placed.values()))
    blocks = sorted(
        {position.block for position in placed.values()}, key=lambda b: (b is None, b or 0)
    )
    groups: dict[tuple[int, int], list[str]] = {}
    for name, position in placed.items():
        groups.setdefault((rows.index(position.kind), blocks.index(position.block)), []).append(
            name
        )
    return MatrixGrid(rows, ["other" if block is None else str(block) for block in blocks], groups)


def spot(name: str) -> str:
    """Where a matrix is among those of its kind: `block 3`, `block 3, experts 7`."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts[:-1]) if part.isdecimal()]
    labels = [f"{parts[i - 1] if i else ''} {parts[i]}".strip() for i in numbers[1:]]
    return ", ".join([f"block {parts[numbers[0]]}", *labels]) if numbers else name


def group_label(names: list[str]) -> str:
    """`block 3, experts 0 and 7 like it`."""
    first = spot(names[0])
    return first if len(names) == 1 else f"{first} and {len(names) - 1} like it"


def _position(name: str) -> Position:
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.isdecimal():
            rest = ("*" if p.isdecimal() else p for p in parts[index + 1 :])
            return Position(int(part), ".".join(rest))
    return Position(None, name)
