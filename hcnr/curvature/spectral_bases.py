"""Bases of method.md (10) for the matrices of a pair: measured in groups, factorised, kept."""

import contextlib
import hashlib
import io
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnr import ranks
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig
from hcnr.curvature.groups import agreed_groups, plan_groups
from hcnr.curvature.moments import Moments, second_moments
from hcnr.curvature.selfcheck import check_model
from hcnr.data.tokens import TokenizedSet
from hcnr.errors import HcnrError, OutputError
from hcnr.kinds import Basis, DataSet
from hcnr.models.model import resolve_device
from hcnr.models.open_models import OpenModels, Role
from hcnr.models.pair import Pair
from hcnr.progress import FACTORISE, Stages, curvature_of
from hcnr.scratch import Scratch
from hcnr_kernels import SpectralBasis, spectral_basis
from hcnr_kernels.ops.spectral import BlockDiagonal, Modes, TaskEnergy
from hcnr_kernels.ops.spectral.coordinates import Blocks

CurvaturePass = tuple[DataSet, Role]
"""A data set and the model that it is passed through."""


def honesty_pass(kind: Basis, config: RestoreConfig) -> CurvaturePass:
    """Where a basis takes its honesty curvature: a natural step starts from tuned."""
    return "honesty", "tuned" if kind == "natural" else config.hessian_at


def passes_of(kinds: Collection[Basis], config: RestoreConfig) -> list[CurvaturePass]:
    """The passes that the bases of some kinds need."""
    honesty = dict.fromkeys(honesty_pass(kind, config) for kind in kinds)
    return [*honesty, ("task", "tuned")]


class GroupwiseBases:
    """Bases of all matrices, group after group; only one group's curvature is held at a time.

    Attributes:
        kinds: which bases each matrix gets.
        groups: names of the matrices that are measured together.
        passes: forward and backward passes over a data set, all groups together.
        forecast: by kind, what every task weight costs the matrices so far, in nats: half of it is
            the quadratic model's rise of the mean task loss.
    """

    def __init__(
        self,
        pair: Pair,
        matrices: Sequence[str],
        data: Mapping[str, TokenizedSet],
        config: RestoreConfig,
        stages: Stages,
        *,
        kinds: Collection[Basis],
        models: OpenModels | None = None,
    ) -> None:
        """Plan the groups; nothing is measured yet.

        Args:
            pair: base and tuned.
            matrices: names of those to repair, in the model's order.
            data: tokenised samples of both data sets.
            config: damping, memory budget, where honesty curvature is taken, how to measure.
            stages: told about passes and factorisations.
            kinds: which bases; the task's curvature is taken at tuned for both.
            models: of the pair; opened for this alone when None.

        Raises:
            ConfigError: one block alone exceeds the memory budget.
        """
        self._pair, self._data, self._config, self._stages = pair, data, config, stages
        self._models, self._group_passes = models, passes_of(kinds, config)
        self.kinds = tuple(kinds)
        held = models is not None and models.role is not None
        self.groups = groups_of(pair, matrices, config, len(self._group_passes), held=held)
        self.passes = len(self.groups) * len(self._group_passes)
        self.forecast: dict[Basis, TaskEnergy] = {}
        self._checked: set[tuple[Role, str]] = set()

    def __iter__(self) -> Iterator[tuple[str, dict[Basis, SpectralBasis]]]:
        """Measure and factorise; yields a matrix and its bases.

        Raises:
            ModelError: a pass fails.
            FactorizationError: a second moment is not finite or stays indefinite.
        """
        for index in range(len(self.groups)):
            yield from self.group(index)

    def group(self, index: int) -> Iterator[tuple[str, dict[Basis, SpectralBasis]]]:
        """The same of one group, by its index; groups are to be taken in order."""
        group, total = self.groups[index], sum(map(len, self.groups))
        done = sum(map(len, self.groups[:index]))
        with contextlib.ExitStack() as stack:
            models = self._models or stack.enter_context(self._pair.models(self._config))
            # There and back: the model that is held goes first.
            passes = sorted(self._group_passes, key=lambda one: one[1] != models.role)
            moments = {one: self._measure(one, group, models) for one in passes}
            with self._stages.stage(FACTORISE) as watcher:
                # Inputs' modes are let go with it, before the next group is measured.
                work = self._one_by_one if ranks.size() == 1 else self._by_owners
                for name, bases, energies in work(group, moments):
                    for kind, energy in energies.items():
                        known = self.forecast.get(kind)
                        self.forecast[kind] = TaskEnergy(
                            energy if known is None else known.energy + energy
                        )
                    yield name, bases
                    del bases
                    done += 1
                    watcher.advance(done, total)
            moments.clear()

    def _one_by_one(
        self, group: list[str], moments: dict[CurvaturePass, dict[str, Moments]]
    ) -> "Iterator[_Factorised]":
        inputs: dict[tuple[Basis, str, str], Modes] = {}
        for name in group:
            yield name, *self._factorise(name, moments, inputs)

    def _by_owners(
        self, group: list[str], moments: dict[CurvaturePass, dict[str, Moments]]
    ) -> "Iterator[_Factorised]":
        """The same where several processes take turns at matrices that read the same inputs."""
        task = moments["task", "tuned"]
        device = task[group[0]].inputs.device
        families: dict[str, list[str]] = {}
        for name in group:
            families.setdefault(task[name].leader, []).append(name)
        own: dict[int, bytes] = {}
        failed: HcnrError | None = None
        try:
            for index, family in enumerate(families.values()):
                if ranks.owns(index):
                    buffer = io.BytesIO()
                    torch.save(list(self._one_by_one(family, moments)), buffer)
                    own[index] = buffer.getvalue()
        except HcnrError as error:
            failed = error
        ranks.agreed(failed)
        for index in range(len(families)):
            data = ranks.handed_out("bases", index, own.pop(index, None))
            yield from _loaded(io.BytesIO(data), device)

    def _measure(
        self, measured: CurvaturePass, group: list[str], models: OpenModels
    ) -> dict[str, Moments]:
        data_set, role = measured
        with self._stages.stage(curvature_of(data_set, role)) as watcher:
            model, layers = models.at(role, group)
            settings: dict[str, Any] = {
                "token_budget": self._config.token_budget,
                "gradient_checkpointing": self._config.recomputes,
            }
            if (role, group[0]) not in self._checked:
                check_model(model, layers, self._data[data_set], axis=self._config.axis, **settings)
                self._checked.add((role, group[0]))
            moments = second_moments(
                model,
                layers,
                self._data[data_set],
                block_size=self._config.block_size,
                progress=watcher.advance,
                **settings,
            )
        return moments

    def _factorise(
        self,
        name: str,
        moments: dict[CurvaturePass, dict[str, Moments]],
        inputs: dict[tuple[Basis, str, str], Modes],
    ) -> "tuple[dict[Basis, SpectralBasis], dict[Basis, Tensor]]":
        """Bases of one matrix, whose own moments are let go, and their part of the forecast."""
        # Models in memory may be on two devices.
        device = moments["task", "tuned"][name].inputs.device
        own = {source: by_matrix.pop(name).to(device) for source, by_matrix in moments.items()}
        task = own["task", "tuned"]
        base, tuned = (source.weight(name) for source in (self._pair.base, self._pair.tuned))
        delta = tuned.to(device).float() - base.to(device).float()
        bases: dict[Basis, SpectralBasis] = {}
        twins: dict[CurvaturePass, SpectralBasis] = {}
        energies: dict[Basis, Tensor] = {}
        for kind in self.kinds:
            source = honesty_pass(kind, self._config)
            honesty = own[source]
            key = kind, honesty.leader, task.leader
            if source not in twins:
                twins[source] = spectral_basis(
                    delta,
                    honesty.pair,
                    task.pair,
                    damping=self._config.damping,
                    block_size=self._config.block_size,
                    shared=inputs.get(key),
                    name=name,
                )
            bases[kind] = twins[source]
            inputs[key] = twins[source].input
            if self._config.searches and kind == "spectral":
                scale = forecast_scale(task, len(self._data["task"]))
                energies[kind] = twins[source].task_energy().energy * scale
        return bases, energies


_Factorised = tuple[str, dict[Basis, SpectralBasis], dict[Basis, Tensor]]
"""A matrix, its bases, and what they add to the forecast."""

KEPT_CLASSES = (SpectralBasis, Modes, Blocks, BlockDiagonal, TaskEnergy)
"""What `hcnr.checkpoint.kept_work` reads again, beside tensors."""


def _loaded(source: Any, device: torch.device | None = None) -> Any:
    """What `torch.save` wrote of bases: tensors, plain values and `KEPT_CLASSES`, no code."""
    with torch.serialization.safe_globals(list(KEPT_CLASSES)):
        return torch.load(source, map_location=device, weights_only=True)


def kept_name(what: str, index: int, group: Sequence[str]) -> str:
    """Name under which what is finished of a group is kept: no other group has it."""
    digest = hashlib.sha256("\n".join(group).encode()).hexdigest()[:12]
    return f"{what} {index} {digest}"


def forecast_scale(task: Moments, samples: int) -> float:
    """What a unit of `TaskEnergy` stands for: `n m_A m_G / N`.

    n tokens of N samples, and the mean diagonals by which both curvatures were divided.
    """
    means = (moment.diagonal().mean(dtype=torch.float64) for moment in task[:2])
    return float(math.prod(map(float, means))) * task.tokens / samples


def groups_of(
    pair: Pair, matrices: Sequence[str], config: RestoreConfig, passes: int, *, held: bool = False
) -> list[list[str]]:
    """Groups of matrices that are measured together.

    Args:
        pair: base and tuned.
        matrices: names, in the model's order.
        config: memory budget, block size.
        passes: data sets and models that moments are taken of.
        held: whether a model is in memory already, so that what is free is beside it.

    Raises:
        ConfigError: one block alone exceeds the memory budget.
        ModelError: there is no such device.
    """

    def plan(shapes: Mapping[str, tuple[int, int]], budget: int | None) -> list[list[str]]:
        return plan_groups(shapes, passes, budget, config.block_size)

    return agreed_groups(pair, matrices, config, plan, held=held)


class BasisCache:
    """Bases by matrix, in memory, or in files where they would not fit there together."""

    def __init__(self, directory: Path | None = None) -> None:
        """Keep them in `directory`, or in memory when None."""
        self._directory = directory
        self._kept: dict[str, SpectralBasis | Path] = {}

    def __setitem__(self, matrix: str, basis: SpectralBasis) -> None:
        if self._directory is None:
            self._kept[matrix] = basis
            return
        try:
            handle, path = tempfile.mkstemp(dir=self._directory, suffix=".pt")
            with open(handle, "wb") as file:
                torch.save(basis, file)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"the bases of spectral and natural do not fit into {self._directory} ({error}); "
                "set TMPDIR to a larger disk, or raise --memory-budget"
            ) from error
        self._kept[matrix] = Path(path)

    def __getitem__(self, matrix: str) -> SpectralBasis:
        basis = self._kept[matrix]
        return _loaded(basis) if isinstance(basis, Path) else basis


class SpectralBases:
    """All bases of a pair at hand, for any number of task weights and steps.

    A context: at its end the files that hold bases, where there are any, are removed.

    Attributes:
        by_kind: kind -> matrix -> basis.
        honesty: the samples whose loss natural steps lower.
        groups: names of the matrices that were measured together.
        passes: forward and backward passes over a data set.
        forecast: see `GroupwiseBases`.
    """

    def __init__(self, honesty: TokenizedSet, groups: list[list[str]], kinds: Sequence[Basis]):
        """Hold nothing yet; what needs more than one group is kept in files."""
        try:
            self._scratch = Scratch() if len(groups) > 1 else None
        except OSError as error:
            raise OutputError(
                f"no directory for bases can be made in {tempfile.gettempdir()} ({error}); set "
                "TMPDIR to a folder that can be written, or raise --memory-budget"
            ) from error
        directory = None if self._scratch is None else self._scratch.path
        self.by_kind = {kind: BasisCache(directory) for kind in kinds}
        self.honesty, self.groups = honesty, groups
        self.passes = 0
        self.forecast: dict[Basis, TaskEnergy] = {}

    @classmethod
    def measure(
        cls,
        pair: Pair,
        matrices: Sequence[str],
        data: Mapping[str, TokenizedSet],
        config: RestoreConfig,
        stages: Stages,
        *,
        kinds: Collection[Basis],
        models: OpenModels | None = None,
        keep: KeptWork = KeptWork(None),  # noqa: B008 (keeps nothing)
    ) -> "SpectralBases":
        """Measure and factorise all of it; arguments and errors as of `GroupwiseBases`.

        `keep` holds what is finished of each group, for a run after this one was interrupted.
        """
        work = GroupwiseBases(pair, matrices, data, config, stages, kinds=kinds, models=models)
        spectral_bases = cls(data["honesty"], work.groups, work.kinds)
        try:
            for index, group in enumerate(work.groups):

                def finished(index: int = index) -> tuple[Any, ...]:
                    return dict(work.group(index)), work.forecast

                name = kept_name("bases", index, group)
                device = resolve_device(config.device)
                bases, forecast = keep.of(name, finished, KEPT_CLASSES, device)
                work.forecast = {kind: TaskEnergy(e.energy.cpu()) for kind, e in forecast.items()}
                spectral_bases.add(bases)
                del bases  # let go before the next group is measured
        except BaseException:
            spectral_bases.close()
            raise
        spectral_bases.passes, spectral_bases.forecast = work.passes, work.forecast
        return spectral_bases

    def add(self, bases: Mapping[str, Mapping[Basis, Any]]) -> None:
        """Hold the bases of a group: matrix -> kind -> basis."""
        for matrix, by_kind in bases.items():
            for kind, basis in by_kind.items():
                self.by_kind[kind][matrix] = basis

    def close(self) -> None:
        """Remove the files."""
        if self._scratch is not None:
            self._scratch.close()

    def __enter__(self) -> "SpectralBases":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
