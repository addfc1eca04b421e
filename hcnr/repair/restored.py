"""What is said of a matrix whose neurons are restored, whatever is done about the others."""

from collections.abc import Sequence
from typing import Any

from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.repair.selection import Selection


def restored_record(
    name: str, shape: Sequence[int], selection: Selection, **numerics: Any
) -> MatrixRecord:
    """What is said of a matrix whose neurons are restored.

    Args:
        name: the matrix.
        shape: `[out, in]`.
        selection: masks and perturbations.
        numerics: of the compensation, fields of the record.
    """
    mask = selection.masks[name]
    restored = int(mask.sum())
    return MatrixRecord(
        name=name,
        neurons=mask.shape[0],
        restored=restored,
        parameters=restored * shape[1 if selection.axis == "output" else 0],
        perturbation=selection.perturbation[name],
        half_overlap=selection.overlap.get(name),
        **numerics,
    )
