"""Plain interpolation as a repair: what a report holds of it, and that in words."""

from hcnr.record.numbers import short
from hcnr.record.schema import Schema
from hcnr.record.two_sided import MaxTaskDrop

HOW = "every weight is a mix of both, (1 - c) tuned + c base, by one coefficient c for all of them"


class CoefficientTrial(Schema):
    """A coefficient that the search tried.

    Attributes:
        coefficient: c.
        retention: what is kept of the likelihood that fine-tuning gained, percent.
        kept: whether that is enough.
    """

    coefficient: float
    retention: float | None = None
    kept: bool = False


class Interpolated(Schema):
    """An interpolation.

    Attributes:
        coefficient: c that was used, 0 tuned and 1 base.
        max_task_drop_percent: percent of the likelihood gain that the search might give up.
        search: coefficients in the order in which they were tried; empty unless searched.
        held_back: task samples that the search was judged on.
        held_back_sha256: of their tokens.
        tensors: that were mixed.
        left: names of those that stayed as tuned.
    """

    coefficient: float
    max_task_drop_percent: MaxTaskDrop = None
    search: list[CoefficientTrial] = []
    held_back: int | None = None
    held_back_sha256: str | None = None
    tensors: int | None = None
    left: list[str] = []

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
