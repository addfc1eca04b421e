"""NaN and infinity in weights, found in one pass and before they spread into every score."""

from collections.abc import Callable, Iterable

import torch

from hcnr.checkpoint.headers import TensorInfo
from hcnr.checkpoint.reader import Checkpoint, read_into
from hcnr.checkpoint.views import mapped_values, windows
from hcnr.errors import CheckpointError

# Large enough that the calls do not count, small enough to stay in the cache between read and sum.
CHUNK_BYTES = 4 << 20


def all_finite(values: torch.Tensor) -> bool:
    """Whether a tensor of any floating-point or complex dtype holds neither NaN nor infinity."""
    if values.dtype.itemsize == 1:
        values = values.float()
    # A sum is not finite wherever a term is not, and is 25 times faster than isfinite in bfloat16;
    # where it only overflowed, the values themselves say so.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def check_finite(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Check that weights hold neither NaN nor infinity; stop at the first tensor that does.

    Args:
        checkpoint: an opened checkpoint.
        names: tensors to check; all by default. Integer tensors are finite by nature.
        progress: called with the bytes of each chunk just checked.

    Raises:
        CheckpointError: a value is not finite (the tensor, how many NaN, how many infinite), there
            is no such tensor, or its file can no longer be read.
    """
    buffer = torch.empty(CHUNK_BYTES, dtype=torch.uint8)
    for name in checkpoint.tensors if names is None else names:
        info = checkpoint.info(name)
        nans, infinities = _count(info, buffer, progress)
        if nans or infinities:
            counts = [
                f"{count} {what}"
                for count, what in ((nans, "NaN"), (infinities, "infinite"))
                if count
            ]
            elements = info.nbytes // info.dtype.itemsize
            raise CheckpointError(
                f"{name!r} of '{checkpoint.path}' holds {' and '.join(counts)} of {elements} "
                "values, and finite ones were expected; save it again from a sound run"
            )


def _count(
    info: TensorInfo, buffer: torch.Tensor, progress: Callable[[int], None] | None
) -> tuple[int, int]:
    nans = infinities = 0
    counts = info.dtype.is_floating_point or info.dtype.is_complex
    for begin, end in windows(info):
        window = mapped_values(info, begin, end) if counts else None
        for first in range(begin, end, CHUNK_BYTES):
            last = min(first + CHUNK_BYTES, end)
            if counts:
                if window is None:
                    piece = buffer[: last - first]
                    read_into(info.file, [(first, piece)])
                    values = piece.view(info.dtype)
                else:
                    size = info.dtype.itemsize
                    values = window[(first - begin) // size : (last - begin) // size]
                if values.dtype.itemsize == 1:
                    values = values.float()
                if not all_finite(values):
                    nans += int(values.isnan().sum())
                    infinities += int(values.isinf().sum())
            if progress is not None:
                progress(last - first)
    return nans, infinities
