"""How long a large damped inverse should take on an H100, and torch's routes: a model by steps.

Nothing here has been measured. `hcnr_kernels/ops/inverse/triton.py` is what is modelled: two
launches a step, of which the second ends when its squares are done and the next one on the
diagonal is factorised, by one program.
"""

from typing import NamedTuple

from hcnr_kernels.triton.launch import Launch
from hcnr_kernels.triton.tiles import divide_up, division_tile, elimination_tile, multiprocessors

SQUARE = elimination_tile(90).m
ROWS = division_tile(elimination_tile(90)).m

FP32 = 50e12
"""Operations a second, for three TF32 products too: no more than the vector units give. The
squares' operands come from L2, 256 KB for 4.2 million operations: at its 5.5 TB/s that would be 90
TFLOP/s, if loads and products overlapped, which one program a multiprocessor does not let them."""
BANDWIDTH = 3.0e12
DIAGONAL = 55e-6
"""Seconds of the one program that factorises a square, estimated from its machine code: 128 columns
of 450 cycles (184 instructions for two warps a scheduler, five barriers), 33 us at 1.75 GHz; 22
small products, 15 us; ten times through memory."""
DIVISION = 6e-6
"""Seconds of a program that divides rows of a panel: 2160 instructions of two warps a scheduler."""
GAP = 2e-6
"""Seconds between two launches of which one needs the other."""
HOST = 35e-6
"""Seconds of the host for a launch of a Triton kernel, counted on another machine. 5 us is what a
launcher without Triton's checks takes."""
POTRF_COLUMN = 0.9e-6
"""Seconds that the library's Cholesky factor takes for a column beyond its operations: what is left
of the published 1.5 TFLOP/s on one 2048 x 2048 matrix (H100 class)."""


class Seconds(NamedTuple):
    """What an elimination takes.

    Attributes:
        products: of all squares.
        diagonal: of the programs that factorise, one after the other.
        launches: how many.
        host: of the host.
        model: steps one after the other, each as long as the longer of its products and its
            square of the diagonal; or the host.
        limit: which of these it is.
    """

    products: float
    diagonal: float
    launches: int
    host: float
    model: float
    limit: str


def squares_of(width: int, split: int | None = 0) -> list[int]:
    """Squares that every step changes: towards rows `split:` of the inverse, None for a factor."""
    side = divide_up(width, SQUARE)

    def triangle(rows: int) -> int:
        return rows * (rows + 1) // 2

    if split is None:
        return [triangle(side - step) for step in range(1, side)]
    last = split // SQUARE
    return [triangle(side) - triangle(min(step + 1, last)) for step in range(side)]


def elimination(width: int, split: int | None = 0) -> Seconds:
    """The model of `[width, width]`: rows `split:` of the inverse, None for a factor alone."""
    counts = squares_of(width, split)
    products, division, device = 0.0, 0.0, DIAGONAL
    for step, squares in enumerate(counts):
        rows = width if split is not None else width - (step + 1) * SQUARE
        programs = divide_up(rows, ROWS)
        division = divide_up(programs, multiprocessors(90)) * DIVISION
        product_seconds = 2 * squares * SQUARE**3 / FP32
        products += product_seconds
        device += max(product_seconds, DIAGONAL) + division + 2 * GAP
    if split is not None:
        device += 4 * (width**2 - split**2) / BANDWIDTH
    launches = 2 * len(counts) + (2 if split is None else 3)
    diagonal, host = DIAGONAL * (len(counts) + 1), HOST * launches
    limit = "the host" if host > device else "products" if products > diagonal else "the diagonal"
    return Seconds(products, diagonal, launches, host, max(device, host), limit)


class Rival(NamedTuple):
    """Seconds of torch's routes: operations alone, and with what is published of the library.

    Attributes:
        operations: `cholesky_ex`, and `cholesky_inverse`, which solves for the identity.
        model: the same with `POTRF_COLUMN`.
        lu: operations of `linalg.inv`: an LU factor, and a solve for the identity.
    """

    operations: float
    model: float
    lu: float


def rival(width: int) -> Rival:
    """`7 d^3 / 3` and `8 d^3 / 3` operations, all at the full rate."""
    operations = 7 * width**3 / 3 / FP32
    return Rival(operations, operations + POTRF_COLUMN * width, 8 * width**3 / 3 / FP32)


class Cost(NamedTuple):
    """Operations that a launch's programs form, and bytes that they load and store, L2 or not."""

    operations: int = 0
    nbytes: int = 0


def cost_of(launch: Launch) -> Cost:
    """Of a launch of the elimination; nothing of any other."""
    arguments = launch.arguments
    name, side = launch.kernel.__name__, arguments["BT"]
    if name == "eliminate_kernel":
        depth, half = arguments["depth"], side // 2
        # The next square: three of its four halves, then seven products of halves.
        following = 2 * half**2 * (3 * depth + 7 * half)
        squares = launch.grid - 1
        moved = 2 * side**2 * (squares + 1) + arguments["width"] * depth
        return Cost(2 * side**2 * depth * squares + following, 4 * moved)
    if name == "divide_kernel":
        rows = launch.grid * arguments["BM"]
        return Cost(rows * 7 * 2 * (side // 2) ** 2, 8 * rows * side)
    if name == "finish_kernel":
        return Cost(0, 12 * side**2 * launch.grid)
    return Cost()
