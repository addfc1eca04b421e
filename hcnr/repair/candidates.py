"""Candidate weights put into a model in memory, one configuration after the other."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hcnr.config import RestoreConfig
from hcnr.curvature.spectral_bases import SpectralBases
from hcnr.curvature.statistics import Statistics
from hcnr.models.directory import DirectorySource
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.repair.compensate import final_weight, whole_weight
from hcnr.repair.natural import Walk, natural_steps
from hcnr.repair.selection import Selection, most_perturbed, select_neurons


class Selections:
    """Selections of many configurations; what they share is computed once.

    Priorities and perturbations depend on everything but the cross-weight ratio and the
    compensation, so they are found once for all of those.
    """

    def __init__(self, pair: Pair, statistics: Statistics) -> None:
        """Select from `statistics`; `pair` must hold its unchanged weights while selecting."""
        self._weights = pair.base.weight, pair.tuned.weight
        # The agreement of the halves is told by a restoration; here it would only cost time.
        self._statistics = replace(statistics, halves={})
        self._selections: dict[RestoreConfig, Selection] = {}
        self.seconds = 0.0

    def __len__(self) -> int:
        """How many times neurons had to be ranked."""
        return len(self._selections)

    def of(self, config: RestoreConfig) -> Selection:
        """The selection that `select` makes, without the overlaps of the halves."""
        start = time.perf_counter()
        key = config.replace(
            in_weight_ratio=config.candidate_ratio,
            cross_weight_ratio=1.0,
            compensation="none",
            task_weight=1.0,
        )
        if key not in self._selections:
            self._selections[key] = select_neurons(self._statistics, *self._weights, key)
        selection = self._selections[key]
        self.seconds += time.perf_counter() - start
        return replace(
            selection, selected=most_perturbed(selection.perturbation, config, selection.untouched)
        )


class Candidates:
    """Restored weights of one configuration after the other in one model.

    Going from one configuration to the next that differs only by a larger cross-weight ratio adds
    matrices and computes no weight twice, since a larger share holds the smaller one. Any other
    step starts from the tuned model again. So no candidate's weights are held beside the model's.

    Attributes:
        seconds: spent on compensating and on applying and undoing.
        dearest: most seconds that one configuration took, or would have taken alone.
    """

    def __init__(
        self,
        pair: Pair,
        statistics: Statistics | None,
        overlay: Overlay,
        *,
        spectral_bases: SpectralBases | None = None,
    ) -> None:
        """Work on the tuned model of `pair`.

        Args:
            pair: base and tuned.
            statistics: curvature of the kinds along one axis; None where none will be asked for.
            overlay: over the tuned model.
            spectral_bases: bases of the kinds that repair whole matrices.
        """
        self._pair, self._statistics, self._overlay = pair, statistics, overlay
        self._spectral_bases = spectral_bases
        self._recipe: RestoreConfig | None = None
        self._done: set[str] = set()
        self._start = 0.0
        self.seconds = {"compensate": 0.0, "apply": 0.0}
        self.dearest = 0.0

    def apply(self, config: RestoreConfig, selection: Selection) -> None:
        """Turn the model into what `restore` makes of it with `config`, bit for bit.

        Raises:
            HcnrError: as `hcnr.repair.compensate.final_weight`; the model is as the last
                candidate left it, or partly changed, until the overlay is undone.
        """
        recipe = config.replace(cross_weight_ratio=1.0)
        if recipe != self._recipe or not self._done <= set(selection.selected):
            self.undo()
            self._recipe, self._start = recipe, sum(self.seconds.values())
        missing = [name for name in selection.selected if name not in self._done]
        if "natural" in config.bases and missing:
            # Every step depends on all matrices together.
            self.undo()
            self._start = sum(self.seconds.values())
            with self._timed("compensate"):
                self.walk(config, selection.selected)
            self._recipe, self._done = recipe, set(selection.selected)
            missing = []
        for name in missing:
            with self._timed("compensate"), torch.no_grad():
                weight = self._weight(name, selection, config)
            with self._timed("apply"):
                self._overlay.put_matrix(name, weight)
            self._done.add(name)
        self.dearest = max(self.dearest, sum(self.seconds.values()) - self._start)

    def walk(
        self,
        config: RestoreConfig,
        names: Sequence[str],
        advance: Callable[[int, int], None] | None = None,
    ) -> Walk:
        """Take natural steps, from tuned or from what `spectral` makes of it.

        The model must be the tuned one; it holds the repaired weights afterwards.

        Args:
            config: task weight, steps, step size, how to measure.
            names: the matrices to repair.
            advance: told about steps.

        Raises:
            HcnrError: as `hcnr.repair.natural.natural_steps`.
        """
        assert self._spectral_bases is not None
        start = None
        if "spectral" in config.bases:
            bases = self._spectral_bases.by_kind["spectral"]
            start = {name: bases[name].deviation(config.mu).cpu() for name in names}
        return natural_steps(
            self._overlay,
            lambda name: (self._pair.base.weight(name), self._tuned(name)),
            list(names),
            self._spectral_bases,
            config,
            start=start,
            advance=advance,
        )

    def _weight(self, name: str, selection: Selection, config: RestoreConfig) -> Tensor:
        base, tuned = self._pair.base.weight(name), self._tuned(name)
        if config.bases:
            assert self._spectral_bases is not None
            deviation = self._spectral_bases.by_kind["spectral"][name].deviation(config.mu)
            return whole_weight(name, base, tuned, deviation)
        assert self._statistics is not None
        mask = selection.masks[name]
        return final_weight(name, base, tuned, mask, self._statistics, config).weight

    def undo(self) -> None:
        """Turn the model back into the tuned one."""
        with self._timed("apply"):
            self._overlay.undo()
        self._recipe, self._done = None, set()

    def _tuned(self, matrix: str) -> Tensor:
        if isinstance(self._pair.tuned, DirectorySource):
            return self._pair.tuned.weight(matrix)
        # The source is the very model that is being changed.
        return self._overlay.original_matrix(matrix)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
