"""A result that was written as a patch, in words."""

from collections import Counter

from hcnr.record.files.restoration import PatchRecord
from hcnr.record.numbers import in_bytes

LARGE = 0.5
"""Share of the checkpoint from which on the whole of it is as good."""


def patch_sentence(patch: PatchRecord) -> str:
    """How large a patch is beside the checkpoint, and what to do with it."""
    share = patch.nbytes / patch.checkpoint_nbytes
    counts = Counter(one.form for one in patch.tensors.values())
    words = {"rows": "by rows", "columns": "by columns", "whole": "whole"}
    forms = ", ".join(f"{counts[form]} {how}" for form, how in words.items() if counts[form])
    text = (
        f"the patch on tuned changes {len(patch.tensors)} of {patch.stored} tensors"
        f"{f' ({forms})' if forms else ''} and takes {in_bytes(patch.nbytes)}, {share:.1%} of the "
        f"checkpoint's {in_bytes(patch.checkpoint_nbytes)}"
    )
    if share > LARGE:
        return f"{text}: the whole checkpoint is as good (--out-format full)"
    return text
