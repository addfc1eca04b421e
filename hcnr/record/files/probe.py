"""`probe.json`: what linear probes found in a pair, as it is written and read."""

from typing import Any

from hcnr.record.files.restoration import ComparedPair
from hcnr.record.files.schema import Schema


class AurocRecord(Schema):
    """An AUROC and its 95 % interval."""

    auroc: float
    low: float
    high: float


class BlockRecord(Schema):
    """The probes of one block, see `hcnr.probes.report.BlockProbes`."""

    block: int
    base: AurocRecord
    transfer: AurocRecord
    tuned: AurocRecord
    cosine: float | None = None


class ProbeRecord(Schema):
    """All of `probe.json`, see `hcnr.probes.report.ProbeReport` for what the parts are."""

    verdict: str
    sentence: str
    rule: str = ""
    best_block: int | None = None
    best_transfer: AurocRecord | None = None
    required: float | None = None
    met: bool = True
    blocks: list[BlockRecord] = []
    pair: ComparedPair = ComparedPair()
    data: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    notes: list[str] = []
    seconds: dict[str, float] = {}
    versions: dict[str, str] = {}
