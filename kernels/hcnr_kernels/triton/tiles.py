"""What each Triton program works on: pure functions of shapes, dtypes and the chip."""

from collections.abc import Sequence
from typing import NamedTuple

from hcnr_kernels.chunks import TEMPORARY_BYTES


class Tile(NamedTuple):
    """What one Triton program works on at a time.

    Attributes:
        m: Rows of the tile that is formed.
        n: Columns of it.
        k: Depth of one step of the sum; 1 where nothing is summed.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
    """

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


def shared_memory(capability: int) -> int:
    """Bytes of shared memory one program may use on a chip of compute capability `capability`.

    CUDA programming guide, technical specifications per compute capability.
    """
    small = {86, 89, 120, 121}  # 100 KB an SM, 1 KB of it reserved
    if capability in small:
        return 99 * 1024
    return 163 * 1024 if capability < 90 else 227 * 1024


def pipelined(
    m: int,
    n: int,
    k: int,
    *,
    warps: int,
    itemsize: int,
    capability: int,
    left_itemsize: int | None = None,
    programs: int = 1,
) -> Tile:
    """A product's tile with as many pipeline stages, two to four, as shared memory holds.

    Each stage keeps an `[m, k]` operand of `left_itemsize` bytes (`itemsize` if not given) and a
    `[k, n]` one of `itemsize`. 16 KiB are left for the conversions between layouts that the
    compiler may need; `programs` are to share a multiprocessor.
    """
    stage = m * k * (left_itemsize or itemsize) + k * n * itemsize
    stages = (shared_memory(capability) // programs - 16 * 1024) // stage
    return Tile(m, n, k, warps, min(4, max(2, stages)))


SHORT_SAMPLE = 96
"""Mean tokens up to which a tile of 64 tokens wastes less than one of 128: not measured yet."""

SAMPLES_AT_ONCE = 128
"""Offsets that a program of the Gram form reads at once to find its sample."""

GROUP = 8
"""Rows of tiles that neighbouring programs of a product share, so that operands stay in L2; as in
the Triton tutorial on matrix products, not measured here."""

ADD_ROWS = Tile(m=32, n=64, k=1, num_warps=4, num_stages=2)
"""The second stage of the scores: `n` neurons a program, `m` partial rows a step."""


def divide_up(value: int, size: int) -> int:
    """How many pieces of `size` cover `value`."""
    return -(-value // size)


def token_gram_tile(itemsize: int, mean_tokens: float, capability: int) -> Tile:
    """Tile of `X_b X_b^T`: `m` = `n` tokens; smaller for short samples and for fp32."""
    if itemsize > 2:
        return pipelined(64, 64, 32, warps=8, itemsize=4, capability=capability)
    # 128 x 128 spills registers on 8.0.
    if mean_tokens <= SHORT_SAMPLE or capability < 90:
        return pipelined(64, 64, 64, warps=4, itemsize=2, capability=capability)
    return pipelined(128, 128, 64, warps=8, itemsize=2, capability=capability)


def quadratic_tile(gram: str, mean_tokens: float, capability: int) -> Tile:
    """Tile of `K own`: `m` tokens of a sample by `n` neurons.

    Args:
        gram: How K is read: as `planes`, two tensors of bf16; `split` in two when it has been read;
            or `whole`, in fp32.
        mean_tokens: Of a sample.
        capability: 90 is 9.0.
    """
    if gram == "whole":
        return pipelined(64, 64, 32, warps=8, itemsize=4, capability=capability)
    if mean_tokens <= SHORT_SAMPLE or capability < 90:
        shape, warps, programs = (64, 128, 64), 4, 2
    else:
        # Twice the neurons read K half as often. On 10.0 Triton 3.6 compiles that to a kernel of
        # four registers that does nothing.
        wide = (128, 256, 64 if gram == "planes" else 32)
        shape, warps, programs = wide if capability < 100 else (128, 128, 64), 8, 1
    return pipelined(
        *shape,
        warps=warps,
        itemsize=2,
        left_itemsize=4,
        programs=programs,
        capability=capability,
    )


def direct_tile(itemsize: int, capability: int, sums: frozenset[str]) -> Tile:
    """Tile of `G_b = g_b^T x_b`; `sums`, of what is formed, holds `rows`, `columns`, `weights`.

    Wide where registers allow: column sums need more of them on 10.0, two kinds of sums everywhere.
    """
    if itemsize > 2:
        return pipelined(64, 64, 32, warps=8, itemsize=4, capability=capability)
    if capability < 90:
        return pipelined(128, 128, 32, warps=8, itemsize=2, capability=capability)
    wide = sums == {"rows"} or (sums == {"columns"} and capability < 100)
    return pipelined(128, 256 if wide else 128, 64, warps=8, itemsize=2, capability=capability)


def sample_splits(tiles: int, samples: int) -> int:
    """Groups of samples, so that few tiles still fill a chip of 132 multiprocessors twice."""
    return max(1, min(samples, 264 // max(tiles, 1)))


GRAM_LIBRARY_WIDTH = 1024
"""Widest `x^T x` of 16-bit operands left to cuBLAS, which forms both triangles. Not measured yet;
from publications, in which half-tile kernels lose to it at 1024 and win from 4096 on."""

GRAM_ADD_ROWS = 16
"""Rows of a tile of `x^T x` that one program of its second stage adds up; not measured yet, from
the aim of several programs per multiprocessor when a single tile was split."""

STREAM_COLUMNS = 1024
"""Columns of a tile of an operator that reads each weight once; not measured yet, from the aim of
reading whole DRAM pages (2 KiB)."""

PERTURBATION_ADD = Tile(m=1, n=4096, k=1, num_warps=8, num_stages=1)
"""The second stage of `perturbation`: `n` partial sums a step, so that the weights of an 8B model
take one; not measured yet."""


def multiprocessors(capability: int) -> int:
    """Multiprocessors of the data-centre chip of compute capability `capability`.

    By capability and not asked of the device, so that two cards of one kind give the same bits.
    """
    return {80: 108, 90: 132, 100: 148, 103: 148}.get(capability, 108)


def whole_vectors(columns: int, strides: Sequence[int], address: int) -> bool:
    """Whether Triton will load a matrix 16 bytes at a time: it looks at the same numbers.

    Args:
        columns: Of the matrix.
        strides: Of its rows and its columns, in elements.
        address: In bytes.
    """
    return strides[1] == 1 and all(value % 16 == 0 for value in (columns, strides[0], address))


def gram_by_library(width: int, itemsize: int) -> bool:
    """Whether `x^T x` is left to `torch.mm`: 16 bits, fp32 there follows a global setting."""
    return itemsize == 2 and width <= GRAM_LIBRARY_WIDTH


def gram_tile(itemsize: int, aligned: bool, capability: int) -> Tile:
    """Tile of `x^T x`: `m` rows by `n` columns, `n` a multiple of `m`; `k` tokens a step.

    128 x 256 because a square of 128 would have to fetch 10 TB/s from the L2 cache to reach
    660 TFLOP/s on an H100, which gives 5 to 8 (arithmetic, not measured yet). One program fills a
    multiprocessor. fp32 takes three products and their operands' registers, hence less.

    Args:
        itemsize: Of x, in bytes.
        aligned: Whether 16 bytes of a row of x can be loaded at once; if not, what is in flight
            takes registers.
        capability: 90 is 9.0.
    """
    if itemsize > 2 or not aligned:
        k = 32 if aligned else 16
        return pipelined(64, 64, k, warps=4, itemsize=itemsize, capability=capability)
    k = 64 if shared_memory(capability) >= 200 * 1024 else 32
    return pipelined(128, 256, k, warps=8, itemsize=itemsize, capability=capability)


class Division(NamedTuple):
    """Who sums which tokens of a tile of `x^T x`.

    Attributes:
        whole: Tiles summed by one program each.
        parts: Programs that share the sum of each of the other tiles.
        share: Tokens of each part, a multiple of the tile's `k`; the last may have fewer.
    """

    whole: int
    parts: int
    share: int


def divide_tokens(count: int, tokens: int, tile: Tile, capability: int) -> Division:
    """Divide `count` tiles of `tokens` tokens so that no multiprocessor idles at the end.

    Tiles that fill the chip a whole number of times stay whole. The others are cut along the tokens
    into the number of parts that ends soonest; a part costs `overhead` steps more, for storing and
    adding it (not measured yet; from 128 KiB of fp32 written and read by all multiprocessors at
    3 TB/s against 64 tokens of 128 x 256 at 5 TFLOP/s each).
    """
    overhead = 16
    slots = multiprocessors(capability) * (2 if tile.num_warps <= 4 else 1)
    rest = count % slots
    steps = max(1, -(-tokens // tile.k))
    if rest == 0:
        return Division(count, 1, steps * tile.k)
    most = min(32, steps, TEMPORARY_BYTES // (4 * rest * tile.m * tile.n))
    best, parts = steps, 1
    for number in range(2, most + 1):
        cost = -(-rest * number // slots) * (-(-steps // number) + overhead)
        if cost < best:
            best, parts = cost, number
    if parts == 1:
        return Division(count, 1, steps * tile.k)
    share = -(-steps // parts)
    return Division(count - rest, -(-steps // share), share * tile.k)


OBJECTIVE_LINES = 1024
"""Lines of E whose products are summed in registers before they meet the curvature, so that what
tensor cores cut off stays near 1e-5: about 5e-9 a product (published models of them), for the two
products of the high half, as those of the low one come first, into a small sum."""


def objective_tile(capability: int) -> Tile:
    """Square tile of `E^T E`, `k` lines a step: one half of E on the left, both on the right.

    4096 neurons are 528 squares of 128: four times the multiprocessors of an H100. Two products of
    three tiles take as many bytes an operation as one of 128 x 256. Not measured yet.
    """
    k = 64 if shared_memory(capability) >= 200 * 1024 else 32
    return pipelined(128, 128, k, warps=8, itemsize=4, left_itemsize=2, capability=capability)


def objective_lines(width: int) -> int:
    """Lines of E `[width, lines]` that are split at once."""
    return min(OBJECTIVE_LINES, max(16, TEMPORARY_BYTES // (4 * max(width, 1)) // 16 * 16))


def elimination_tile(capability: int) -> Tile:
    """One square of a damped inverse, `m` columns a step, `k` of them at a time.

    A square of 128 is the smallest whose operands L2 can supply at the rate of the products: 256 KB
    in and out for 4.2 million operations. The first program of a launch factorises the next one, by
    halves, `n` rows of its lower left at a time: what fits in registers. Not measured yet.
    """
    # On 8.0 32 columns a step spill registers.
    k, stages = (16, 3) if capability < 90 else (32, 2)
    return Tile(128, 16, k, num_warps=8, num_stages=stages)


def division_tile(square: Tile) -> Tile:
    """Rows of a panel that one program divides by a square's factor.

    32 of 4096 rows are 128 programs, one for each multiprocessor of an H100. Not measured yet.
    """
    return Tile(min(32, square.m), square.m, 1, num_warps=8, num_stages=1)


def mirror_tile(itemsize: int) -> Tile:
    """Square tile of `symmetrize_`: its rows are whole cache lines."""
    side = 256 // max(itemsize, 4)
    return Tile(side, side, 1, num_warps=4, num_stages=1)


def stream_tile(rows: int, columns: int, itemsize: int, aligned: bool) -> Tile:
    """Tile of an operator that reads each weight once.

    A thread loads 128 bytes of its widest operand, eight independent vectors of 16 bytes. Not
    measured yet; from the bytes that must be in flight, about 20 KiB a multiprocessor to cover
    700 ns at 3 TB/s, while one program of 8 warps keeps 32 KiB of that operand in flight. An
    element loaded alone takes registers for its address too: eight of them.
    """
    warps = 8
    elements = 32 * warps * (128 // itemsize if aligned else 8)
    n = min(STREAM_COLUMNS, _power_of_two(columns))
    return Tile(min(_power_of_two(rows), elements // n), n, 1, warps, num_stages=1)


def _power_of_two(value: int) -> int:
    """The smallest power of two that is not smaller than `value`."""
    return 1 << max(0, value - 1).bit_length()
