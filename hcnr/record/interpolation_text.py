"""Plain interpolation as a repair in words, for page, card and terminal."""

from hcnr.record.files.restoration import Interpolated
from hcnr.record.numbers import short

HOW = "every weight is a mix of both, (1 - c) tuned + c base, by one coefficient c for all of them"


def key_facts(mix: Interpolated) -> dict[str, str]:
    """What a summary says, by name."""
    count = len(mix.search)
    searched = f" (found by a search, {count} tried)" if count else ""
    facts = {"coefficient c": f"{short(mix.coefficient)}{searched}"}
    if mix.tensors is not None:
        facts["tensors mixed"] = f"{mix.tensors:,} of {mix.tensors + len(mix.left):,}"
    return facts


def search_sentence(mix: Interpolated) -> str:
    """How the coefficient was found; empty where it was given."""
    if not mix.search:
        return ""
    wanted = (
        "enough" if mix.max_task_drop_percent is None else f"{100 - mix.max_task_drop_percent:g}%"
    )
    where = ""
    if mix.held_back:
        where = f" on {mix.held_back} task samples that were held back"
    return (
        f"c = {short(mix.coefficient)} is the largest of {len(mix.search)} coefficients that "
        f"keeps {wanted} of what fine-tuning had gained in likelihood{where}."
    )
