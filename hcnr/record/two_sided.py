"""What a report says about a two-sided repair and its task weight, read leniently."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hcnr.kinds import plain_name
from hcnr.record.matrix_record import is_raised
from hcnr.record.numbers import NONE
from hcnr.record.values import (
    mapping,
    mappings,
    number,
    renamed,
)

Both = tuple[float | None, float | None]
"""Of the output and of the input axis."""
AXES = ("output", "input")


@dataclass(frozen=True)
class Spectrum:
    """How much of a change is kept, by the eigenvalue `g a` of method.md (10).

    Attributes:
        edges: between the bins of `g a`; the outer bins are open.
        directions: of each bin.
        energy: share of the change's energy in each bin, as the honesty data weighs it.
        kept: share of a bin's energy that is kept; it may exceed 1 after a natural step.
    """

    edges: tuple[float, ...]
    directions: tuple[float, ...]
    energy: tuple[float, ...]
    kept: tuple[float, ...]

    @classmethod
    def read(cls, value: Any) -> "Spectrum | None":
        """Read `spectrum` of a matrix; None where a part is missing or odd."""
        found = mapping(value)
        edges, *columns = (
            _numbers(found.get(key)) for key in ("edges", "directions", "energy", "kept")
        )
        rising = len(edges) > 1 and edges[0] > 0 and all(a < b for a, b in pairwise(edges))
        if not rising or any(len(column) != len(edges) + 1 for column in columns):
            return None
        return cls(edges, *columns)

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
        known[0].edges,
        tuple(map(math.fsum, directions)),
        tuple(total / len(known) for total in energy),
        tuple(kept),
    )


@dataclass(frozen=True)
class TwoSidedMatrix:
    """What happened to one matrix.

    Attributes:
        name: the matrix.
        damping: used on the output and the input axis.
        condition: of what was factorised there.
        routes: `dense` or `tokens`, of each axis.
        raised: whether more damping was used than asked for.
        restored_directions: effective number, the sum of `1 / (1 + mu g a)`.
        restored_share: the same as a share of all directions.
        honesty_left: `tr(G_h E A_h E^T)` as a share of its value at tuned.
        task_lost: `tr(G_t (E - delta) A_t (E - delta)^T)` as a share of its value at base.
        spectrum: what was kept, by eigenvalue.
    """

    name: str
    damping: Both
    condition: Both
    routes: tuple[str, str]
    raised: bool
    restored_directions: float | None
    restored_share: float | None
    honesty_left: float | None
    task_lost: float | None
    spectrum: Spectrum | None

    @classmethod
    def read(cls, name: str, found: Mapping[str, Any], asked: float | None) -> "TwoSidedMatrix":
        """Read `two_sided` of a matrix; `asked` is the damping that was asked for."""
        damping, routes = _both(found.get("damping")), found.get("routes")
        named = routes if isinstance(routes, list) and len(routes) == 2 else (NONE, NONE)
        return cls(
            name=name,
            damping=damping,
            condition=_both(found.get("condition")),
            routes=(str(named[0]), str(named[1])),
            raised=any(asked and used and is_raised(used, asked) for used in damping),
            restored_directions=number(found.get("restored_directions")),
            restored_share=number(found.get("restored_share")),
            honesty_left=number(found.get("honesty_left")),
            task_lost=number(found.get("task_lost")),
            spectrum=Spectrum.read(found.get("spectrum")),
        )


@dataclass(frozen=True)
class WeightTrial:
    """A task weight that the search tried.

    Attributes:
        task_weight: mu.
        retention: what is kept of the likelihood that fine-tuning gained, percent.
        kept: whether that is enough.
    """

    task_weight: float
    retention: float | None
    kept: bool


@dataclass(frozen=True)
class StepRecord:
    """A natural step.

    Attributes:
        number: counted from 1.
        before: honesty loss before it.
        after: honesty loss after it.
        length: its Frobenius norm over all matrices.
        share: the same as a share of the norm of all of delta.
    """

    number: int
    before: float | None
    after: float | None
    length: float | None
    share: float | None

    @property
    def rose(self) -> bool:
        """Whether the honesty loss is higher after it."""
        return self.before is not None and self.after is not None and self.after > self.before


@dataclass(frozen=True)
class TwoSidedRecord:
    """A two-sided repair as the report tells it.

    Attributes:
        kind: `spectral`, `natural` or `spectral+natural`, which repair whole matrices; or another
            kind whose task weight was searched.
        task_weight: mu that was used.
        max_task_drop_percent: percent of the likelihood gain that the search might give up.
        held_back: task samples that the search was judged on.
        passes: over a data set, in all.
        groups: of matrices that were measured one after the other.
        restored_directions: of all matrices.
        restored_share: the same as a share of all directions.
        search: task weights in the order in which they were tried; empty unless searched.
        steps: natural steps; empty for spectral alone.
        honesty_loss: after the last step.
        matrices: by name, in the order of the model.
    """

    kind: str
    task_weight: float | None = None
    max_task_drop_percent: float | None = None
    held_back: int | None = None
    passes: int | None = None
    groups: int | None = None
    restored_directions: float | None = None
    restored_share: float | None = None
    search: list[WeightTrial] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    honesty_loss: float | None = None
    matrices: dict[str, TwoSidedMatrix] = field(default_factory=dict)

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> "TwoSidedRecord | None":
        """Read `hcnr_report.json`; None where it says nothing about it."""
        found, config = mapping(report.get("two_sided")), mapping(report.get("config"))
        if not found:
            return None
        summary, asked = mapping(report.get("summary")), number(config.get("damping"))
        return cls(
            kind=plain_name(str(found.get("kind") or config.get("compensation"))),
            task_weight=number(found.get("task_weight")),
            max_task_drop_percent=number(renamed(found, "max_task_drop_percent")),
            **{key: _whole(found.get(key)) for key in ("held_back", "passes", "groups")},
            restored_directions=number(summary.get("restored_directions")),
            restored_share=number(summary.get("restored_share")),
            search=_search(found.get("search")),
            steps=_steps(found.get("steps"), number(found.get("honesty_loss"))),
            honesty_loss=number(found.get("honesty_loss")),
            matrices=_matrices(report, asked),
        )

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


def _matrices(report: Mapping[str, Any], asked: float | None) -> dict[str, TwoSidedMatrix]:
    found = {
        record["name"]: TwoSidedMatrix.read(record["name"], inner, asked)
        for record in mappings(report.get("matrices"))
        if (inner := mapping(record.get("two_sided")))
    }
    # The report lists all targets in the model's order, and may list the repaired ones in another.
    order = {name: place for place, name in enumerate(mapping(report.get("perturbation")))}
    return {n: found[n] for n in sorted(found, key=lambda n: order.get(n, len(order)))}


def _search(value: Any) -> list[WeightTrial]:
    known = ((number(entry.get("task_weight")), entry) for entry in mappings(value))
    return [
        WeightTrial(mu, number(entry.get("retention")), entry.get("kept") is True)
        for mu, entry in known
        if mu is not None
    ]


def _steps(value: Any, last: float | None) -> list[StepRecord]:
    entries = mappings(value)
    losses = [*(number(entry.get("honesty_loss")) for entry in entries), last]
    return [
        StepRecord(place + 1, losses[place], losses[place + 1], number(entry.get("length")),
             number(entry.get("share")))
        for place, entry in enumerate(entries)
    ]  # fmt: skip


def _numbers(value: Any) -> tuple[float, ...]:
    """Finite numbers of a list, or none at all where one of them is none."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    found = [number(item) for item in value]
    return tuple(item for item in found if item is not None) if None not in found else ()


def _both(value: Any) -> Both:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None, None
    return _real(value[0]), _real(value[1])


def _real(value: Any) -> float | None:
    """A number, infinity included."""
    return value if value == math.inf else number(value)


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)
