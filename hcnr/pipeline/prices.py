"""What each stage of a run costs, from shapes and sizes alone: bytes and operations."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hcnr import progress
from hcnr.config import RestoreConfig
from hcnr.data.held_back import held_back_count
from hcnr.models.directory import DirectorySource
from hcnr.models.open_models import Role
from hcnr.pipeline.memory import Memory
from hcnr.pipeline.stages import PlannedStep, Stage, next_role
from hcnr.repair.coefficient import MOST_TRIES as COEFFICIENTS
from hcnr.repair.task_weight import MOST_TRIES
from hcnr_kernels import gram_is_cheaper
from hcnr_kernels.ops.spectral.token_space import PENCIL_FLOPS


@dataclass(frozen=True)
class StagePlan:
    """One stage: bytes moved from and to disk, bytes held in memory at once, operations.

    Attributes:
        name: as a run's bars and its report call it.
        detail: how often something is done; empty where it is done once.
        read: bytes from disk.
        written: bytes to disk.
        held: most bytes in memory at once: weights, activations and logits of a micro-batch,
            curvature; what libraries take comes on top.
        flops: operations, a multiply and an add as two.
        pencils: how many of them factorise second moments, which is slower.
        seconds: by the rates of the machine; None where they are not known.
    """

    name: str
    detail: str = ""
    read: int = 0
    written: int = 0
    held: int = 0
    flops: int = 0
    pencils: int = 0
    seconds: float | None = field(default=None, compare=False)


class Prices:
    """Prices of the steps of one run; a model that is held already costs no reading."""

    def __init__(
        self,
        sources: tuple[DirectorySource, DirectorySource],
        shapes: Sequence[tuple[int, int]],
        selected: int,
        config: RestoreConfig,
        groups: Sequence[int],
        memory: Memory,
        *,
        tokens_per_sample: int,
    ) -> None:
        """Take what the prices follow from.

        Args:
            sources: base and tuned.
            shapes: `(out, in)` of every target matrix.
            selected: how many of them are restored.
            config: of the run.
            groups: bytes of curvature of each group of matrices that is measured together.
            memory: what models and passes hold.
            tokens_per_sample: tokens assumed.
        """
        self._config, self._groups = config, groups
        base, tuned = (source.checkpoint.nbytes for source in sources)
        self._size: dict[Role, int] = {"base": base, "tuned": tuned}
        self._weights_of, self._streamed = memory.weights, memory.streamed
        self._batch = memory.batch[0]
        self._forward_bytes, self._backward_bytes = memory.forward or 0, memory.backward or 0
        self._length, self._tokens = tokens_per_sample, config.samples * tokens_per_sample
        self._shapes, self._weights = shapes, sum(out * into for out, into in shapes)
        # Of an average matrix times the number selected: which ones will be is not known yet.
        self._share = selected / len(shapes)
        infos = sources[1].checkpoint.tensors.values()
        self._stored = self._weights * max(info.dtype.itemsize for info in infos)
        along = [out if config.axis == "output" else into for out, into in shapes]
        self._squares, self._cubes = sum(d * d for d in along), sum(d**3 for d in along)
        products = zip(shapes, along, strict=True)
        self._products = sum(2 * out * into * d for (out, into), d in products)
        self._open: Role | None = None
        self._next: Role = "tuned"
        # Finished weights wait until they are written where curvature cannot stay.
        self._finishes = bool(config.bases) or (len(groups) > 1 and not config.searches)
        # In memory, or mapped from files.
        waits = self._finishes and not config.streams
        self._ahead = int(self._stored * self._share) if waits else 0
        # Beside the last group's curvature: on a GPU they are out of its way.
        count = len(groups) if memory.device == "cpu" else 0
        self._beside = self._ahead * (count - 1) // count if count > 1 else 0
        self._loads: Counter[Stage] = Counter()

    def of(self, steps: Iterable[PlannedStep]) -> list[StagePlan]:
        """Every stage of the steps, in order."""
        todo, prices = list(steps), list[StagePlan]()
        for index, step in enumerate(todo):
            self._next = next_role(todo[index + 1 :])
            prices += [getattr(self, f"_{step.work}")(step, stage) for stage in step.stages]
        return prices

    @property
    def _forward(self) -> int:
        """Operations of a forward pass over the measured samples of one data set."""
        return 2 * self._weights * self._tokens

    @property
    def _held_back(self) -> int:
        """Operations of a forward pass over the held-back samples of one data set."""
        return self._forward * held_back_count(self._config.samples) // self._config.samples

    def _load(self, role: Role | None) -> int:
        """Bytes read before the model of a role can run."""
        if role is None or role == self._open:
            return 0
        self._open = role
        return self._size[role] - self._streamed[role]

    def _reading(self, role: Role, samples: int, *, backward: bool = False) -> int:
        """Bytes of blocks that are read as they run: again where backward recomputes them."""
        batches = math.ceil(samples / self._batch)
        return self._streamed[role] * batches * (2 if backward else 1)

    # A method for the `work` of every step.

    def _read(self, step: PlannedStep, stage: Stage) -> StagePlan:
        return StagePlan(stage.name)

    def _check(self, step: PlannedStep, stage: Stage) -> StagePlan:
        return StagePlan(stage.name, read=sum(self._size.values()))

    def _count(self, step: PlannedStep, stage: Stage) -> StagePlan:
        read = self._load("tuned") + 2 * self._reading("tuned", self._config.samples)
        held = self._weights_of["tuned"] + self._forward_bytes
        return StagePlan(stage.name, read=read, held=held, flops=2 * self._forward)

    def _losses(self, step: PlannedStep, stage: Stage) -> StagePlan:
        # Either first: the one that is used next is held at the end.
        self._open = self._next
        count = held_back_count(self._config.samples)
        return StagePlan(
            stage.name,
            read=sum(
                self._size[role] - self._streamed[role] + 2 * self._reading(role, count)
                for role in self._size
            ),
            held=max(self._weights_of.values()) + self._forward_bytes,
            flops=4 * self._held_back,
        )

    def _score(self, step: PlannedStep, stage: Stage) -> StagePlan:
        assert stage.role is not None
        scores = sum(_score_flops(*shape, self._length) for shape in self._shapes)
        return StagePlan(
            stage.name,
            read=self._load(stage.role)
            + self._reading(stage.role, self._config.samples, backward=True),
            held=self._weights_of[stage.role] + self._backward_bytes,
            flops=2 * self._forward + scores * self._config.samples,
        )

    def _select(self, step: PlannedStep, stage: Stage) -> StagePlan:
        return StagePlan(stage.name, read=2 * self._stored, flops=5 * self._weights)

    def _curvature(self, step: PlannedStep, stage: Stage) -> StagePlan:
        assert stage.role is not None
        if stage == step.stages[0]:
            self._loads = self._loaded(step)
        share = 1.0 if self._config.all_hessians else self._share
        # Along the input axis no backward pass is needed.
        forward = self._config.axis == "input"
        # Beside bases, all of the neuron axis is for statistics, and not what they are made of.
        groups = [int(4 * self._squares * share)] if self._config.bases else self._groups
        passes = self._forward * (1 if forward else 2) * len(groups)
        return StagePlan(
            stage.name,
            _times(len(groups)) if len(groups) > 1 else "",
            read=(self._size[stage.role] - self._streamed[stage.role]) * self._loads[stage]
            + len(groups) * self._reading(stage.role, self._config.samples, backward=not forward),
            held=self._weights_of[stage.role]
            + self._beside
            + max(groups)
            + (self._forward_bytes if forward else self._backward_bytes),
            flops=int(passes + self._tokens * self._squares * share),
        )

    def _whole(self, step: PlannedStep, stage: Stage) -> StagePlan:
        if stage.name == progress.FACTORISE:
            return self._factorise()
        if stage.name == progress.SEARCH:
            return self._search()
        if stage.name == progress.STEPS:
            return self._walk()
        assert stage.role is not None
        if stage == step.stages[0]:
            self._loads = self._loaded(step)
        count = len(self._groups)
        squares = sum(width * self._block(width) for width in self._axes)
        return StagePlan(
            stage.name,
            _times(count),
            read=(self._size[stage.role] - self._streamed[stage.role]) * self._loads[stage]
            + count * self._reading(stage.role, self._config.samples, backward=True),
            held=self._weights_of[stage.role]
            + self._beside
            + self._backward_bytes
            + max(self._groups),
            flops=int(2 * self._forward * count + self._tokens * squares * self._share),
        )

    def _loaded(self, step: PlannedStep) -> Counter[Stage]:
        """How often each pass over a data set reads its model: the one that is held goes first."""
        loads: Counter[Stage] = Counter()
        passes = [stage for stage in step.stages if stage.name.startswith(progress.CURVATURE)]
        for _ in self._groups:
            for stage in sorted(passes, key=lambda stage: stage.role != self._open):
                loads[stage] += self._load(stage.role) > 0
        return loads

    @property
    def _axes(self) -> list[int]:
        return [width for shape in self._shapes for width in shape]

    def _block(self, width: int) -> int:
        return min(width, self._config.block_size or width)

    @property
    def _merging(self) -> int:
        """Operations of one product of every matrix with the bases of both of its axes."""
        return sum(
            4 * out * into * (self._block(out) + self._block(into)) for out, into in self._shapes
        )

    def _factorise(self) -> StagePlan:
        cubes = sum(width * self._block(width) ** 2 for width in self._axes)
        pencils = len(self._config.bases) * PENCIL_FLOPS * cubes
        return StagePlan(
            progress.FACTORISE,
            read=2 * self._stored,
            held=self._weights_of[self._open or "tuned"] + max(self._groups),
            flops=int((pencils + self._merging) * self._share),
            pencils=int(pencils * self._share),
        )

    @property
    def _walking(self) -> int:
        passes = 2 * self._forward * len(self._groups)
        own = 2 * self._tokens * self._weights * self._share
        return int(self._config.steps * (passes + own))

    def _search(self) -> StagePlan:
        """A candidate's products and its loss on held-back samples; steps of its own."""
        products = self._merging if self._config.bases else self._cubes + self._products
        walking = self._walking if "natural" in self._config.bases else 0
        return StagePlan(
            progress.SEARCH,
            f"at most {MOST_TRIES} tried",
            read=self._load("tuned")
            + MOST_TRIES * self._reading("tuned", held_back_count(self._config.samples)),
            # The originals of what is replaced wait beside it, unless they are read again.
            held=(1 if self._config.streams else 2) * self._weights_of["tuned"]
            + max(self._groups)
            + self._forward_bytes,
            flops=int(MOST_TRIES * (products * self._share + self._held_back + walking)),
        )

    def _walk(self) -> StagePlan:
        count = self._config.steps * len(self._groups)
        return StagePlan(
            progress.STEPS,
            f"{_times(count)} over the honesty data",
            read=self._size["tuned"],
            held=2 * self._weights_of["tuned"] + max(self._groups) + self._backward_bytes,
            flops=self._walking,
        )

    def _mix(self, step: PlannedStep, stage: Stage) -> StagePlan:
        # Every candidate is put together from both directories.
        read = self._load("tuned") + COEFFICIENTS * sum(self._size.values())
        return StagePlan(
            stage.name,
            f"at most {COEFFICIENTS} tried",
            read=read,
            held=2 * self._weights_of["tuned"] + self._forward_bytes,
            flops=COEFFICIENTS * self._held_back,
        )

    def _write(self, step: PlannedStep, stage: Stage) -> StagePlan:
        self._open = None
        tuned = self._size["tuned"]
        if self._config.interpolates:
            return StagePlan(stage.name, read=sum(self._size.values()), written=tuned)
        solves = not self._config.bases and self._config.kind.apply is not None
        flops = (self._cubes + self._products) * self._share if solves else 0
        return StagePlan(
            stage.name,
            read=tuned + int(2 * self._stored * self._share),
            written=tuned,
            held=self._ahead if self._finishes else max(self._groups, default=0),
            flops=int(flops),
        )

    def _judge(self, step: PlannedStep, stage: Stage) -> StagePlan:
        read = self._size["tuned"] - self._streamed["tuned"]
        return StagePlan(
            stage.name,
            read=read + 2 * self._reading("tuned", held_back_count(self._config.samples)),
            held=self._weights_of["tuned"] + self._forward_bytes,
            flops=2 * self._held_back,
        )


def _times(count: int) -> str:
    return f"{count} pass{'es' if count > 1 else ''}"


def _score_flops(out: int, into: int, length: int) -> int:
    """Operations of one matrix's scores on one sample, in the form that method.md (2) chooses."""
    if gram_is_cheaper(length, into, out):
        return 2 * length * length * (into + out)
    return 2 * length * out * into
