"""A result that was written as an adapter or as a patch, in words and as a table."""

from collections import Counter

from hcnr.record.files.restoration import AdapterRecord, PatchRecord
from hcnr.record.numbers import in_bytes

LARGE_PATCH = 0.5
"""Share of the checkpoint from which on the whole of it is as good."""

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def adapter_table(adapter: AdapterRecord) -> Table:
    """Title, heads and rows: how near every matrix is to the weight that it stands for.

    Args:
        adapter: of the report, see `hcnr.repair.adapter_output.AdapterOutput.write`.
    """
    rows = [
        (name, str(one.rank), "exact" if one.exact else f"{one.error:.2%}")
        for name, one in adapter.matrices.items()
    ]
    return f"Adapter on {adapter.on}", ("matrix", "rank", "relative error"), rows


def adapter_sentence(adapter: AdapterRecord) -> str:
    """The same of all matrices together, in one sentence."""
    count = len(adapter.matrices)
    if adapter.exact:
        return f"the adapter on {adapter.on} is exact in all of its {count} matrices"
    cut = sum(not matrix.exact for matrix in adapter.matrices.values())
    return (
        f"the adapter on {adapter.on} leaves out {adapter.error:.2%} of the change "
        f"(Frobenius norm): {cut} of {count} matrices need a rank above {adapter.rank} "
        "(--adapter-rank)"
    )


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
    if share > LARGE_PATCH:
        return f"{text}: the whole checkpoint is as good (--out-format full)"
    return text
