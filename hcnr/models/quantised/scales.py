"""Numbers times scales, one of a tensor, of a row or of a block."""

import math
from collections.abc import Sequence

from torch import Tensor

from hcnr.errors import CheckpointError


def scaled(name: str, stored: Tensor, scale: Tensor, block: Sequence[int] | None) -> Tensor:
    """Multiply stored numbers by their scales.

    Args:
        name: of the weight, for messages.
        stored: `[..., rows, columns]`, of any dtype that float32 holds.
        scale: one number; or of the same rank with sizes that are 1 or the tensor's; or, with
            `block`, `[..., ceil(rows / block[0]), ceil(columns / block[1])]`.
        block: rows and columns of a block; None where there are no blocks.

    Returns:
        float32, of the shape of `stored`; each number is rounded once.

    Raises:
        CheckpointError: the scales do not fit.
    """
    numbers, factors = stored.float(), scale.float()
    if block is None:
        if factors.numel() == 1:
            return numbers * factors.reshape(())
        fits = factors.dim() == numbers.dim() and all(
            size in (1, whole) for size, whole in zip(factors.shape, numbers.shape, strict=True)
        )
        if fits:
            return numbers * factors
        expected = "one, one of each row, or one of each column"
    else:
        *batch, rows, columns = numbers.shape
        sizes = [*batch, math.ceil(rows / block[0]), math.ceil(columns / block[1])]
        if list(factors.shape) == sizes:
            factors = factors.repeat_interleave(block[0], -2)[..., :rows, :]
            return numbers * factors.repeat_interleave(block[1], -1)[..., :columns]
        expected = f"{sizes} for blocks of {block[0]} x {block[1]}"
    raise CheckpointError(
        f"the scales of {name!r} have the shape {list(scale.shape)} and the weight "
        f"{list(stored.shape)}, expected {expected}: download or save the checkpoint again"
    )
