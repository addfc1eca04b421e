"""How large a temporary may be, and the chunks that keep below it."""

from collections.abc import Iterator

TEMPORARY_BYTES = 64 * 2**20
"""What one operator may hold beyond its arguments and results, in bytes."""


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not smaller than `value`."""
    return -(-value // multiple) * multiple


def chunks(length: int, size: int) -> Iterator[slice]:
    """Slices that cover `range(length)` in pieces of `size`; none when `length` is zero."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def chunk_length(row_bytes: int, *, budget: int = TEMPORARY_BYTES) -> int:
    """How many rows of `row_bytes` fit in the budget; at least one."""
    return max(1, budget // max(1, row_bytes))
