"""Tokens of samples that a model has no row of its embedding for."""

from collections.abc import Mapping
from typing import NamedTuple

from hcnr.data.tokens import TokenizedSet
from hcnr.models.limits import Limits


class Unreadable(NamedTuple):
    """A token that a model has no row of its embedding for.

    Attributes:
        name: of the data set.
        sample: counted from 1.
        token: its id.
        rows: of the embedding.
    """

    name: str
    sample: int
    token: int
    rows: int

    def __str__(self) -> str:
        return (
            f"sample {self.sample} of the {self.name} data has the token id {self.token}, and its "
            f"embedding has {self.rows} rows"
        )


def unreadable(sets: Mapping[str, TokenizedSet], limits: Limits) -> Unreadable | None:
    """The first token id outside a model's embedding; None where it reads all samples."""
    if limits.rows is None:
        return None
    for name, samples in sets.items():
        for number, sample in enumerate(samples.samples, 1):
            if (token := max(sample.input_ids)) >= limits.rows:
                return Unreadable(name, number, token, limits.rows)
    return None
