"""A result that was written as an adapter, in words and as a table."""

from hcnr.record.files.restoration import AdapterRecord

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
