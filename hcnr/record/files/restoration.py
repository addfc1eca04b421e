"""`hcnr_report.json` of a restoration, as it is written and read."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from hcnr.config import RestoreConfig
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.files.schema import Schema
from hcnr.record.files.two_sided import MaxTaskDrop, TwoSidedRecord
from hcnr.record.numbers import short


def _settings(value: Any) -> Any:
    return RestoreConfig(**value) if isinstance(value, dict) else value


Settings = Annotated[
    RestoreConfig,
    BeforeValidator(_settings),
    PlainSerializer(lambda config: config.model_dump(mode="json")),
]
"""All settings, those of former names under their own."""


AGAIN = "restore again to write it anew"
"""What to do with a damaged report."""


class PairRecord(Schema):
    """Both models: their names, fingerprints, and where they come from if from no directory."""

    base: str
    tuned: str
    fingerprints: dict[str, str] = {}
    sources: dict[str, dict[str, Any]] = {}


class ComparedPair(PairRecord):
    """The pair that another file is about; its fingerprints tell whether it is the same one."""

    base: str = ""
    tuned: str = ""


class DataRecord(Schema):
    """Samples of one data set: which were used, how they were read, what was cut.

    Attributes:
        refusals: how many of the responses refuse.
        questions: prints of the prompts, see `hcnr.data.overlap.question_print`.
    """

    model_config = ConfigDict(extra="allow")

    source: str | None = None
    available: int | None = None
    format: str | None = None
    sha256: str | None = None
    tokens_sha256: str | None = None
    max_length: int | None = None
    refusals: int | None = None
    questions: list[str] = []
    samples: int = 0
    tokens: int = 0
    response_tokens: int = 0
    prompts_truncated: int = 0
    responses_truncated: int = 0
    chat_template: bool = False


class Summary(Schema):
    """The restoration in a few numbers.

    Attributes:
        target_parameters: weights of all target matrices that fine-tuning changed.
        mean_half_overlap: of the candidates; `selected_overlap` is that of the restored neurons.
        out_of_reach: weights of the blocks that no repair reaches, `Reach.as_dict()`.
        restored_directions: of whole matrices, with `restored_share` of all that they have.
    """

    target_matrices: int
    untouched_matrices: list[str] = []
    selected_matrices: int
    restored_neurons: int
    restored_parameters: int
    target_parameters: int
    mean_half_overlap: float | None = None
    selected_overlap: float | None = None
    half_overlap_by_chance: float | None = None
    objective_none: float | None = None
    objective: float | None = None
    largest_damping: float | None = None
    largest_condition: float | None = None
    damping_raised: list[str] = []
    seconds: float = 0.0
    out_of_reach: dict[str, Any] | None = None
    restored_directions: float | None = None
    restored_share: float | None = None


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


class AdapterMatrix(Schema):
    """How near a matrix of an adapter is to the change that it stands for."""

    rank: int
    error: float
    exact: bool


class AdapterRecord(Schema):
    """A result that was written as an adapter.

    Attributes:
        on: `base` or `tuned`.
        base: the name of that one.
        rank: the largest that was allowed.
        error: relative Frobenius error of all matrices together.
    """

    on: str
    base: str
    rank: int
    error: float
    exact: bool
    matrices: dict[str, AdapterMatrix]


class PatchTensor(Schema):
    """What a patch holds of one tensor.

    Attributes:
        form: `rows`, `columns` or `whole`.
        count: how many of them; of the whole tensor its rows.
        nbytes: in the file.
    """

    form: str
    count: int
    nbytes: int


class PatchRecord(Schema):
    """A result that was written as a patch.

    Attributes:
        tuned: the name of what it is put on.
        fingerprint: of all tensors that tuned stores.
        sha256: of all of their bytes, see `hcnr.checkpoint.patch_form.together`.
        nbytes: of the patch.
        checkpoint_nbytes: of tuned's files.
        stored: how many tensors these hold.
        tensors: what is changed, by stored name.
    """

    tuned: str
    fingerprint: str
    sha256: str
    nbytes: int
    checkpoint_nbytes: int
    stored: int
    tensors: dict[str, PatchTensor]


class LossVerdict(Schema):
    """What the losses say: `losses` by data set, see `hcnr.repair.verdict.SetLosses`."""

    word: str
    reason: str
    losses: dict[str, Any] = {}
    lines: list[str] = []


class MadeBy(Schema):
    """What the report of any model, restored or trained, tells of how it was made."""

    data: dict[str, DataRecord] = {}
    interpolation: Interpolated | None = None


class RestorationRecord(Schema):
    """Everything of `hcnr_report.json`.

    Attributes:
        perturbation: of every target matrix, in the model's order; `half_overlap` likewise.
        scores: quantiles of every target matrix's scores by data set, see `score_quantiles`.
        seconds: by stage.
        date: in UTC.
        two_sided: of a kind that repairs whole matrices, or where mu was searched.
        interpolation: where all weights were mixed, and nothing was measured or selected.
        adapter: of a result that was written as one.
        patch: likewise.
        verdict: where losses were taken.
    """

    pair: PairRecord
    config: Settings
    data: dict[str, DataRecord] = {}
    summary: Summary
    warnings: list[str] = []
    matrices: list[MatrixRecord]
    perturbation: dict[str, float]
    half_overlap: dict[str, float] = {}
    scores: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, float]
    date: str | None = None
    versions: dict[str, str]
    two_sided: TwoSidedRecord | None = None
    interpolation: Interpolated | None = None
    adapter: AdapterRecord | None = None
    patch: PatchRecord | None = None
    verdict: LossVerdict | None = None

    @property
    def repair(self) -> TwoSidedRecord | None:
        """`two_sided` together with what the file has of it elsewhere."""
        if self.two_sided is None:
            return None
        two = self.two_sided
        after = [*(step.honesty_loss for step in two.steps[1:]), two.honesty_loss]
        steps = zip(two.steps, after, strict=False)
        # All targets stand in the model's order, the repaired ones may stand in another.
        order = {name: place for place, name in enumerate(self.perturbation)}
        matrices = {
            matrix.name: matrix.two_sided.model_copy(
                update={
                    "name": matrix.name,
                    "raised": matrix.raised(self.config.damping),
                    "spectrum": matrix.two_sided.drawable,
                }
            )
            for matrix in sorted(
                self.matrices, key=lambda matrix: order.get(matrix.name, len(order))
            )
            if matrix.two_sided is not None
        }
        return two.model_copy(
            update={
                "steps": [step.model_copy(update={"after": loss}) for step, loss in steps],
                "matrices": matrices,
                "restored_directions": self.summary.restored_directions,
                "restored_share": self.summary.restored_share,
            }
        )
