"""What a report says about plain interpolation as a repair: in words, for page, card, terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hcnr.record.numbers import short
from hcnr.record.values import (
    mapping,
    mappings,
    number,
    renamed,
    texts,
)

HOW = "every weight is a mix of both, (1 - c) tuned + c base, by one coefficient c for all of them"


@dataclass(frozen=True)
class CoefficientTrial:
    """A coefficient that the search tried.

    Attributes:
        coefficient: c.
        retention: what is kept of the likelihood that fine-tuning gained, percent.
        kept: whether that is enough.
    """

    coefficient: float
    retention: float | None
    kept: bool


@dataclass(frozen=True)
class Interpolated:
    """An interpolation as the report tells it.

    Attributes:
        coefficient: c that was used, 0 tuned and 1 base.
        max_task_drop_percent: percent of the likelihood gain that the search might give up.
        held_back: task samples that the search was judged on.
        tensors: that were mixed.
        left: names of those that stayed as tuned.
        search: coefficients in the order in which they were tried; empty unless searched.
    """

    coefficient: float | None
    max_task_drop_percent: float | None = None
    held_back: int | None = None
    tensors: int | None = None
    left: list[str] = field(default_factory=list)
    search: list[CoefficientTrial] = field(default_factory=list)

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> "Interpolated | None":
        """Read `hcnr_report.json`; None where it is about another repair."""
        found = mapping(report.get("interpolation"))
        if not found:
            return None
        held_back, tensors = number(found.get("held_back")), number(found.get("tensors"))
        known = ((number(one.get("coefficient")), one) for one in mappings(found.get("search")))
        return cls(
            coefficient=number(found.get("coefficient")),
            max_task_drop_percent=number(renamed(found, "max_task_drop_percent")),
            held_back=None if held_back is None else int(held_back),
            tensors=None if tensors is None else int(tensors),
            left=texts(found.get("left")),
            search=[
                CoefficientTrial(c, number(one.get("retention")), one.get("kept") is True)
                for c, one in known
                if c is not None
            ],
        )

    @property
    def name(self) -> str:
        """`interpolated with coefficient 0.14`."""
        return f"interpolated with coefficient {short(self.coefficient)}"


def key_facts(found: Interpolated) -> dict[str, str]:
    """What a summary says, by name."""
    count = len(found.search)
    searched = f" (found by a search, {count} tried)" if count else ""
    facts = {"coefficient c": f"{short(found.coefficient)}{searched}"}
    if found.tensors is not None:
        facts["tensors mixed"] = f"{found.tensors:,} of {found.tensors + len(found.left):,}"
    return facts


def search_sentence(found: Interpolated) -> str:
    """How the coefficient was found; empty where it was given."""
    if not found.search:
        return ""
    wanted = (
        "enough"
        if found.max_task_drop_percent is None
        else f"{100 - found.max_task_drop_percent:g}%"
    )
    where = ""
    if found.held_back:
        where = f" on {found.held_back} task samples that were held back"
    return (
        f"c = {short(found.coefficient)} is the largest of {len(found.search)} coefficients that "
        f"keeps {wanted} of what fine-tuning had gained in likelihood{where}."
    )
