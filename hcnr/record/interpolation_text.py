"""Plain interpolation as a repair in words, for page, card and terminal."""

from hcnr.record.files.restoration import Interpolated
from hcnr.record.numbers import short

HOW = "every weight is a mix of both, (1 - c) tuned + c base, by one coefficient c for all of them"


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
