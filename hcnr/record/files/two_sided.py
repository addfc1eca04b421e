"""What a report holds of a repair of whole matrices and its task weight, written and read."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

from pydantic import AliasChoices, Field, model_validator

from hcnr.record.files.schema import Schema
from hcnr.record.numbers import NONE

Both = Annotated[tuple[float | None, float | None], Field(strict=False)]
"""Of the output and of the input axis."""
AXES = ("output", "input")
MaxTaskDrop = Annotated[
    float | None, Field(validation_alias=AliasChoices("max_task_drop_percent", "max_task_drop"))
]
"""Percent of the likelihood gain that a search might give up, by its name or the former one."""


def is_raised(used: float | None, asked: float) -> bool:
    """Whether a damping is more than the one that was asked for, rounding of float32 apart."""
    return used is not None and used > asked * (1 + 1e-5)


class Spectrum(Schema):
    """How much of a change is kept, by the eigenvalue `g a` of method.md (10).

    Attributes:
        edges: between the bins of `g a`, rising; the outer bins are open.
        directions: of each bin.
        energy: share of the change's energy in each bin, as the honesty data weighs it.
        kept: share of a bin's energy that is kept; it may exceed 1 after a natural step.
    """

    edges: list[float]
    directions: list[float]
    energy: list[float]
    kept: list[float]

    @model_validator(mode="after")
    def _check(self) -> "Spectrum":
        edges = self.edges
        if len(edges) < 2 or edges[0] <= 0 or any(a >= b for a, b in pairwise(edges)):
            raise ValueError("its edges do not rise from above 0")
        if any(len(one) != len(edges) + 1 for one in (self.directions, self.energy, self.kept)):
            raise ValueError("directions, energy and kept need a bin more than there are edges")
        return self

    @property
    def centres(self) -> tuple[float, ...]:
        """A place for every bin on a logarithmic axis, the open ones as wide as their neighbours.

        They are powers of ten for edges halfway between those.
        """
        first, last = self.edges[0] ** 2 / self.edges[1], self.edges[-1] ** 2 / self.edges[-2]
        ends = (first, *self.edges, last)
        return tuple(math.sqrt(a) * math.sqrt(b) for a, b in pairwise(ends))


def together(spectra: Iterable[Spectrum | None]) -> Spectrum | None:
    """Spectrum of several matrices: each one's change counts alike.

    Those without energy have no say in it, nor those of other edges than the first one's.
    """
    known = [some for some in spectra if some is not None and sum(some.energy) > 0]
    known = [some for some in known if some.edges == known[0].edges]
    if not known:
        return None
    energy = [math.fsum(column) for column in zip(*(some.energy for some in known), strict=True)]
    kept = [
        math.fsum(some.energy[place] * some.kept[place] for some in known) / (total or 1.0)
        for place, total in enumerate(energy)
    ]
    directions = zip(*(some.directions for some in known), strict=True)
    return Spectrum(
        edges=known[0].edges,
        directions=[math.fsum(column) for column in directions],
        energy=[total / len(known) for total in energy],
        kept=kept,
    )


class WholeMatrixRecord(Schema):
    """What happened to one matrix.

    Attributes:
        task_weight: mu.
        damping: used on the output and the input axis.
        condition: of what was factorised there.
        routes: `dense` or `tokens`, of each axis.
        restored_directions: effective number, the sum of `1 / (1 + mu g a)`; None after a natural
            step.
        restored_share: the same as a share of all directions.
        honesty_left: `tr(G_h E A_h E^T)` as a share of its value at tuned.
        task_lost: `tr(G_t (E - delta) A_t (E - delta)^T)` as a share of its value at base.
        spectrum: what was kept, by eigenvalue.
        name: the matrix; this and what follows is for a reader and not written.
        raised: whether more damping was used than asked for.
    """

    task_weight: float | None = None
    damping: Both = (None, None)
    condition: Both = (None, None)
    routes: Annotated[tuple[str, str], Field(strict=False)] = (NONE, NONE)
    restored_directions: float | None = None
    restored_share: float | None = None
    honesty_left: float | None = None
    task_lost: float | None = None
    spectrum: Spectrum | None = None
    name: str = Field(default="", exclude=True)
    raised: bool = Field(default=False, exclude=True)

    @property
    def drawable(self) -> Spectrum | None:
        """The spectrum where all of it is finite."""
        some = self.spectrum
        whole = some and all(map(math.isfinite, (*some.directions, *some.energy, *some.kept)))
        return some if whole else None


class WeightTrial(Schema):
    """A task weight that the search tried.

    Attributes:
        task_weight: mu.
        retention: what is kept of the likelihood that fine-tuning gained, percent.
        kept: whether that is enough.
    """

    task_weight: float
    retention: float | None = None
    kept: bool = False


class StepRecord(Schema):
    """A natural step.

    Attributes:
        step: counted from 1.
        honesty_loss: before it.
        length: its Frobenius norm over all matrices.
        share: the same as a share of the norm of all of delta.
        after: honesty loss after it, which the file has at the next step; not written.
    """

    step: int
    honesty_loss: float | None = None
    length: float | None = None
    share: float | None = None
    after: float | None = Field(default=None, exclude=True)

    @property
    def rose(self) -> bool:
        """Whether the honesty loss is higher after it."""
        before, after = self.honesty_loss, self.after
        return before is not None and after is not None and after > before


class TwoSidedRecord(Schema):
    """A repair of whole matrices, or another one whose task weight was searched.

    Attributes:
        kind: `spectral`, `natural` or `spectral+natural`, which repair whole matrices; or another.
        task_weight: mu that was used.
        max_task_drop_percent: percent of the likelihood gain that the search might give up.
        search: task weights in the order in which they were tried; empty unless searched.
        held_back: task samples that the search was judged on.
        held_back_sha256: of their tokens.
        steps: natural steps; empty for spectral alone.
        honesty_loss: after the last step.
        passes: over a data set, in all.
        groups: of matrices that were measured one after the other.
        matrices: by name, in the order of the model; this and what follows is what a reader is
            given together with it, see `RestorationRecord.repair`, and not written.
        restored_directions: of all matrices.
        restored_share: the same as a share of all directions.
    """

    kind: str
    task_weight: float | None = None
    max_task_drop_percent: MaxTaskDrop = None
    search: list[WeightTrial] = []
    held_back: int | None = None
    held_back_sha256: str | None = None
    steps: list[StepRecord] = []
    honesty_loss: float | None = None
    passes: int | None = None
    groups: int | None = None
    matrices: dict[str, WholeMatrixRecord] = Field(default={}, exclude=True)
    restored_directions: float | None = Field(default=None, exclude=True)
    restored_share: float | None = Field(default=None, exclude=True)

    @property
    def whole(self) -> bool:
        """Whether whole matrices are repaired: no neurons are chosen, and both axes count."""
        return not {"spectral", "natural"}.isdisjoint(self.kind.split("+"))

    @property
    def chosen(self) -> WeightTrial | None:
        """The trial of the search whose task weight was used."""
        mu = self.task_weight
        if mu is None:
            return None
        same = (t for t in self.search if math.isclose(t.task_weight, mu, rel_tol=1e-6))
        return next(same, None)
