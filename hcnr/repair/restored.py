"""What is said of a matrix whose neurons are restored, whatever is done about the others."""

from typing import Any

from torch import Tensor

from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.repair.selection import Selection


def restored_record(
    name: str, tuned: Tensor, selection: Selection, **numerics: Any
) -> MatrixRecord:
    """What is said of a matrix whose neurons are restored.

    Args:
        name: the matrix.
        tuned: its tuned weight `[out, in]`.
        selection: masks and perturbations.
        numerics: of the compensation, fields of the record.
    """
    mask = selection.masks[name]
    restored = int(mask.sum())
    return MatrixRecord(
        name=name,
        neurons=mask.shape[0],
        restored=restored,
        parameters=restored * (tuned.shape[1] if selection.axis == "output" else tuned.shape[0]),
        perturbation=selection.perturbation[name],
        half_overlap=selection.overlap.get(name),
        **numerics,
    )
