"""What `hcnr plan --json` prints, see `hcnr.plan.Plan` for what the parts are."""

from typing import Annotated

from pydantic import Field

from hcnr.record.files.schema import Schema

Shape = Annotated[tuple[int, int], Field(strict=False)]
Batch = Annotated[tuple[int, int, int], Field(strict=False)]
"""JSON has lists alone."""


class MatrixKindRecord(Schema):
    """Target matrices of one role and shape."""

    role: str
    shape: Shape
    count: int
    neurons: int
    candidates: int


class StageRecord(Schema):
    """One stage, in bytes and operations, see `hcnr.pipeline.prices.StagePlan`."""

    name: str
    detail: str = ""
    read: int = 0
    written: int = 0
    held: int = 0
    flops: int = 0
    pencils: int = 0
    seconds: float | None = None


class MemoryRecord(Schema):
    """Bytes that models and passes hold, see `hcnr.pipeline.memory.Memory`."""

    device: str
    batch: Batch
    weights: dict[str, int]
    streamed: dict[str, int]
    forward: int | None = None
    backward: int | None = None
    unknown: str = ""
    libraries: int
    free: int | None = None


class PlanRecord(Schema):
    """All of a plan."""

    kinds: list[MatrixKindRecord]
    matrices: int
    selected: int
    stages: list[StageRecord]
    tokens: int
    messages: list[str] = []
    groups: list[int] = []
    memory: MemoryRecord
    peak: int
    recomputes: bool
    memory_budget: float | None
