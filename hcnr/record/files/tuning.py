"""`hcnr_report.json` of `hcnr tune`, as it is written and read."""

from hcnr.record.files.restoration import DataRecord
from hcnr.record.files.schema import Schema

TUNE_AGAIN = "tune again to write it anew"
"""What to do with a damaged report."""


class TrainingRecord(Schema):
    """The settings of a training, see `hcnr.tuning.settings.TuneSettings`, and what came of it.

    Attributes:
        rate: the learning rate at its peak, as a number.
        steps: of the optimizer.
        loss: mean over the steps.
    """

    rate: int | float
    epochs: int | float
    lora: int | None = None
    batch_size: int
    samples: int
    seed: int
    max_length: int
    chat_template: str
    steps: int
    loss: float


class TunedModel(Schema):
    """The model that was trained: its name, and its fingerprint under `tuned`."""

    tuned: str
    fingerprints: dict[str, str] = {}


class LossesRecord(Schema):
    """Mean loss before and after.

    Attributes:
        held_back: whether it is on samples that were not trained on.
    """

    tuned: float
    result: float
    held_back: bool


class TuneRecord(Schema):
    """All of the report of a training; `data` and `losses` are by data set."""

    tune: TrainingRecord
    pair: TunedModel
    data: dict[str, DataRecord] = {}
    losses: dict[str, LossesRecord] = {}
    warnings: list[str] = []
    seconds: dict[str, float] = {}
    versions: dict[str, str] = {}
