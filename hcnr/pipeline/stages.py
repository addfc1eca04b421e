"""The one list of stages: what `measure`, `restore` and `sweep` carry out, and `plan` prices."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from hcnr import progress
from hcnr.config import RestoreConfig
from hcnr.curvature.spectral_bases import passes_of
from hcnr.kinds import DataSet
from hcnr.models.open_models import Role
from hcnr.repair.whole import needs_data

Work = Literal[
    "read", "check", "count", "losses", "score", "select", "curvature", "whole", "mix", "write",
    "judge",
]  # fmt: skip
"""What a step does; `hcnr.pipeline.run.PairRun` has a table of the methods that carry it out."""
Output = Literal["directory", "adapter", "memory", "saved"]
"""What is made: a directory's tensors one by one, an adapter's, or a model in memory, which may be
saved."""


@dataclass(frozen=True)
class Stage:
    """What the clock counts and a bar shows.

    Attributes:
        name: of `hcnr.progress`.
        data: the data set that is passed through a model.
        role: that model, where it is one of the pair.
    """

    name: str
    data: DataSet | None = None
    role: Role | None = None


@dataclass(frozen=True)
class PlannedStep:
    """What is carried out in one go, which may take several stages."""

    work: Work
    stages: tuple[Stage, ...]

    @property
    def roles(self) -> list[Role]:
        """The models that it runs, in order."""
        return [stage.role for stage in self.stages if stage.role is not None]


@dataclass(frozen=True)
class Circumstances:
    """What decides the stages beside the configuration.

    Attributes:
        experts: whether a target is an expert's, which only some tokens reach.
        measured: whether statistics were given, so that scores and curvature are known.
        reads: whether data is read.
        judges: whether losses are taken on it.
    """

    experts: bool = False
    measured: bool = False
    reads: bool = True
    judges: bool = True


def base_runs(config: RestoreConfig, measured: bool) -> bool:
    """Whether anything is measured at base; `measured`: whether statistics were given."""
    if config.interpolates:
        return False
    if config.bases and any(role == "base" for _, role in passes_of(config.bases, config)):
        return True
    if measured or (config.bases and not config.all_hessians):
        return False
    curved = config.all_hessians or bool(config.kind.needs)
    return config.fisher_at == "base" or (curved and config.hessian_at == "base")


def one_axis_passes(config: RestoreConfig) -> dict[DataSet, Role]:
    """Data sets whose curvature along the neuron axis is measured, and the model it is taken at."""
    passes: dict[DataSet, Role] = {}
    needs = config.kind.needs
    if "honesty" in needs or config.all_hessians:
        passes["honesty"] = config.hessian_at
    if "task" in needs:
        passes["task"] = "tuned"
    return passes


def measuring_steps(config: RestoreConfig, circumstances: Circumstances) -> Iterator[PlannedStep]:
    """Reading, checking, scores, the selection and curvature along the neuron axis.

    Where whole matrices are repaired nothing is ranked, so no scores are taken.
    """
    if circumstances.reads:
        yield _step("read", progress.DATA)
    yield _step("check", progress.WEIGHTS)
    measures = not (circumstances.measured or config.interpolates)
    if measures and circumstances.experts:
        yield _step("count", progress.COUNT)
    if circumstances.reads and circumstances.judges:
        yield _step("losses", progress.LOSSES)
    if config.interpolates:
        return
    sets: tuple[DataSet, ...] = ("honesty", "task")
    neurons = not config.bases or config.all_hessians
    if measures and neurons:
        for name in sets:
            yield PlannedStep("score", (Stage(progress.score_of(name), name, config.fisher_at),))
    yield _step("select", progress.SELECT)
    if measures and neurons:
        yield from _curvature(config)


def sweeping_steps(config: RestoreConfig, circumstances: Circumstances) -> Iterator[PlannedStep]:
    """What comes before the candidates of a sweep, which select for themselves."""
    for step in measuring_steps(config, circumstances):
        if step.work != "select" or not circumstances.measured:
            yield step


def restoring_steps(
    config: RestoreConfig, circumstances: Circumstances, output: Output = "directory"
) -> Iterator[PlannedStep]:
    """Everything from the data to the verdict on the result."""
    yield from measuring_steps(config, circumstances)
    if config.interpolates:
        names = [progress.SEARCH_COEFFICIENT] if config.searches else []
        yield PlannedStep("mix", tuple(Stage(name, "task", "tuned") for name in names))
    elif needs_data(config):
        yield PlannedStep("whole", tuple(_whole(config)))
    yield _step("write", *writing_stages(config, output))
    if circumstances.reads and circumstances.judges:
        yield _step("judge", progress.LOSSES_RESTORED)


def weights_decide_nothing(config: RestoreConfig) -> bool:
    """Whether what is restored is known before any weight is read.

    So it is where all matrices are repaired, and restored neurons are base's as they are.
    """
    if config.interpolates or config.kind.scope != "neurons":
        return False
    return config.cross_weight_ratio == 1 and config.kind.applied() is None


def next_role(steps: Iterable[PlannedStep]) -> Role:
    """Whose model the steps run first; tuned where they run none."""
    for step in steps:
        for role in step.roles:
            return role
    return "tuned"


def _curvature(config: RestoreConfig) -> Iterator[PlannedStep]:
    # The model that is open already goes first, so that none is loaded twice.
    passes = one_axis_passes(config).items()
    order = sorted(passes, key=lambda source: source[1] != config.fisher_at)
    stages = tuple(Stage(progress.curvature_of(name), name, role) for name, role in order)
    if stages:
        yield PlannedStep("curvature", stages)


def _whole(config: RestoreConfig) -> Iterator[Stage]:
    if config.bases:
        for name, role in passes_of(config.bases, config):
            yield Stage(progress.curvature_of(name, role), name, role)
        yield Stage(progress.FACTORISE)
    if config.searches:
        yield Stage(progress.SEARCH, "task", "tuned")
    if "natural" in config.bases:
        yield Stage(progress.STEPS, "honesty", "tuned")


def writing_stages(config: RestoreConfig, output: Output) -> list[str]:
    """Names of the stages that put the result together and write it."""
    if output in ("memory", "saved"):
        in_memory = progress.MIX_MODEL if config.interpolates else progress.MERGE
        return [in_memory, progress.SAVE] if output == "saved" else [in_memory]
    if config.interpolates:
        return [progress.MIX]
    return [progress.WRITE_ADAPTER if output == "adapter" else progress.WRITE]


def _step(work: Work, *names: str) -> PlannedStep:
    return PlannedStep(work, tuple(map(Stage, names)))
