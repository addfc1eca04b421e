"""Where candidates are made: one pair, one choice of samples, and everything measured on them."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import hcnr
from experiments.trial.baseline_training import BaselineTrainer
from experiments.trial.candidate_specs import (
    CandidateSpec,
    FineTuned,
    Interpolated,
    Masked,
    Prompted,
    Restored,
    Samples,
    Trained,
)
from experiments.trial.fine_tuning import fine_tune
from hcnr.curvature.spectral_bases import SpectralBases
from hcnr.data.samples import Sample, load_samples
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.models.overlay import Overlay, interpolate, parameters_of
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hcnr.repair.candidates import Candidates, Selections

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from experiments.trial.testbed import TestBed

_EVERYTHING = 2**31
# Padded tokens of a measuring pass.
_TOKENS = 2048
# Stages of `hcnr.measure` that only some kinds need; the others' seconds are everybody's.
_NEEDED_BY = {
    "curvature of honesty": ("sum", "joint", "balanced"),
    "curvature of task": ("balanced",),
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that a method made, to be evaluated before the next one is asked for.

    Attributes:
        spec: What it is.
        model: Changed or dropped by the next candidate; in inference mode.
        seconds: What one user pays who wants this candidate alone, measuring and training included
            and evaluating left out; of the processor, so that a busy machine changes little.
        instruction: What the model is told before every question; empty for nothing.
    """

    spec: CandidateSpec
    model: "LlamaForCausalLM"
    seconds: float
    instruction: str = ""


class CandidateBuilder:
    """Makes candidates of one test bed, one after the other, in one copy of the tuned model.

    A context, at whose end what was kept in files is removed. Measures when it is first needed.

    Attributes:
        samples: What it is measured on.
        pair: Base and tuned.
    """

    def __init__(
        self, testbed: "TestBed", samples: Samples | None = None, keep: Path | None = None
    ) -> None:
        """Read the samples and load the tuned model; nothing is measured yet.

        Args:
            testbed: The pair.
            samples: What it is measured on; the default ones if None.
            keep: Folder of this pair alone that gets the statistics of neurons, each file measured
                once; what it took counts for nothing when it is read again. Kept nowhere if None.
        """
        self.samples = samples or Samples()
        self._keep = keep
        self._testbed = testbed
        self._honesty = select_samples(testbed, self.samples)
        self._task = list(load_samples(testbed.task, limit=self.samples.count).samples)
        self._tuned = testbed.load(testbed.tuned)
        self._overlay = Overlay(self._tuned)
        self.pair = Pair.open(testbed.base, testbed.tuned, self._config(Restored("none")), Stages())
        self._measured: dict[tuple[str, str], _Measured] = {}
        self._spectral_bases: dict[tuple[str, int | None], tuple[SpectralBases, float]] = {}
        self._baselines = BaselineTrainer(testbed, self._honesty)
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._baselines.close)

    def __enter__(self) -> "CandidateBuilder":
        return self

    def __exit__(self, *error: Any) -> None:
        self._overlay.undo()
        self._closing.close()

    def build(self, specs: Sequence[CandidateSpec]) -> Iterator[Candidate]:
        """Make candidates, in an order that suits the work; each lives until the next one.

        Fine-tunings that differ in the number of epochs only are one training, looked at on its
        way.
        """
        trainings: dict[tuple[Any, ...], list[FineTuned]] = {}
        for spec in specs:
            if isinstance(spec, FineTuned):
                start = spec.on, spec.rate, spec.after
                trainings.setdefault(start, []).append(spec)
            elif isinstance(spec, Prompted):
                self._overlay.undo()
                yield Candidate(spec, self._tuned, 0.0, spec.instruction)
            elif isinstance(spec, Trained):
                self._overlay.undo()
                yield Candidate(spec, *self._baselines.train(spec, self._tuned))
            else:
                seconds = self._change(spec)
                yield Candidate(spec, self._tuned, seconds)
        for together in trainings.values():
            yield from self._fine_tuned(together)
        self._overlay.undo()

    def statistics(self, spec: Restored) -> hcnr.Statistics:
        """What the neurons of a candidate are chosen by, with all curvature."""
        return self._statistics(spec).statistics

    def _change(self, spec: Interpolated | Restored | Masked) -> float:
        """Turn the tuned model into what `spec` says; returns what that costs alone."""
        self._overlay.undo()
        if isinstance(spec, Masked):
            return self._masked(spec)
        if isinstance(spec, Restored):
            return self._restore(spec)
        start = time.process_time()
        honest = parameters_of(self.pair.base)
        interpolate(self._tuned, self._overlay, honest, spec.coefficient)
        return time.process_time() - start

    def _restore(self, spec: Restored) -> float:
        config = self._config(spec)
        measured = self._statistics(spec)
        selection = measured.selections.of(config)
        bases, measuring = None, measured.seconds(spec.compensation) + measured.selecting
        if config.bases:
            bases, seconds = self._bases(spec)
            measuring += seconds
        start = time.process_time()
        work = Candidates(self.pair, measured.statistics, self._overlay, spectral_bases=bases)
        work.apply(config, selection)
        return measuring + time.process_time() - start

    @torch.no_grad()
    def _masked(self, spec: Masked) -> float:
        """Write the deviations of `spectral` on chosen rows; the others keep all of delta."""
        bases, seconds = self._bases(Restored("spectral"))
        measured = self._statistics(spec.selecting)
        selection = measured.selections.of(self._config(spec.selecting))
        seconds += measured.seconds("none") + measured.selecting
        start = time.process_time()
        for name in selection.selected:
            base, tuned = (one.weight(name) for one in (self.pair.base, self.pair.tuned))
            deviation = bases.by_kind["spectral"][name].deviation(spec.task_weight).to(base.dtype)
            chosen = selection.masks[name][:, None]
            self._overlay.put(f"{name}.weight", torch.where(chosen, base + deviation, tuned))
        return seconds + time.process_time() - start

    def _fine_tuned(self, together: Sequence[FineTuned]) -> Iterator[Candidate]:
        """One training; `together` differ in the number of epochs only."""
        first = together[0]
        self._overlay.undo()
        before = 0.0 if first.after is None else self._change(first.after)
        data = list(self._tokens(self._honesty).samples)
        if first.on == "both":
            data += self._tokens(self._task).samples
        start = copy.deepcopy(self._tuned)
        self._overlay.undo()
        by_epochs = {spec.epochs: spec for spec in together}
        for shown in fine_tune(
            start, data, rate=first.rate, epochs=list(by_epochs), seed=self._testbed.seed
        ):
            yield Candidate(by_epochs[shown.epochs], shown.model, before + shown.seconds)

    def _statistics(self, spec: Restored) -> "_Measured":
        """Scores along an axis at a model, with all curvature that any kind asks for."""
        key = spec.axis, spec.fisher_at
        if key not in self._measured:
            clock = Clock()
            config = self._config(spec).replace(
                compensation="balanced", all_hessians=True, task_weight=1.0, priority="kl"
            )
            self._overlay.undo()
            statistics = self._measure(spec, config, clock)
            clock.stop()
            self._measured[key] = _Measured(
                statistics, Selections(self.pair, statistics), clock.seconds
            )
        return self._measured[key]

    def _measure(
        self, spec: Restored, config: hcnr.RestoreConfig, clock: "Clock"
    ) -> hcnr.Statistics:
        """Measure, or read what was kept."""
        file = None
        if self._keep is not None:
            about = self.samples.count, self.samples.honesty, spec.axis, spec.fisher_at
            file = self._keep / f"statistics-{'-'.join(map(str, about))}.safetensors"
            if file.is_file():
                return hcnr.Statistics.load(file)
        data = self._honesty, self._task
        pair = self._testbed.base, self._testbed.tuned
        statistics = hcnr.measure(*pair, *data, config, keep_for=file, watcher=clock)
        if file is None:
            return statistics
        statistics.save(file)
        # Read again, so that it lies in the file's pages and not in memory of its own.
        return hcnr.Statistics.load(file)

    def _bases(self, spec: Restored) -> tuple[SpectralBases, float]:
        """The bases of a kind that repairs whole matrices, and what measuring them took."""
        key = spec.compensation, spec.block_size
        if key not in self._spectral_bases:
            start = time.process_time()
            config = self._config(spec)
            data = {
                "honesty": self._tokens(self._honesty),
                "task": self._tokens(self._task),
            }
            bases = SpectralBases.measure(
                self.pair, self.pair.matrices, data, config, Stages(), kinds=config.bases
            )
            self._closing.callback(bases.close)
            self._spectral_bases[key] = bases, time.process_time() - start
        return self._spectral_bases[key]

    def _config(self, spec: Restored) -> hcnr.RestoreConfig:
        config = spec.config(self.samples.count, self._testbed.seed)
        # Two trials run at once, and activations of one backward pass are what memory goes into.
        return config.replace(token_budget=_TOKENS)

    def _tokens(self, samples: Sequence[Sample]) -> TokenizedSet:
        config = self._config(Restored("none"))
        return tokenize(
            samples,
            self._testbed.tokenizer,
            max_length=config.max_length,
            chat_template=config.chat_template,
        )


def select_samples(testbed: "TestBed", samples: Samples) -> list[Sample]:
    """The honesty samples that a choice stands for; fewer where the test bed has fewer."""
    if samples.honesty == "mixed":
        return list(load_samples(testbed.honesty, limit=samples.count).samples)
    everything = load_samples(testbed.honesty, limit=_EVERYTHING).samples
    return [one for one in everything if one.response == testbed.refusal][: samples.count]


class Clock:
    """A `Watcher` that takes the processor's seconds of every stage."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._start = 0.0

    def begin(self, stage: str) -> None:
        """End the current stage and begin another."""
        self.stop()
        self._stage, self._start = stage, time.process_time()

    def advance(self, done: int, total: int) -> None:
        """Nothing to tell."""

    def stop(self) -> None:
        """End the current stage."""
        if self._stage is not None:
            spent = time.process_time() - self._start
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
        self._stage = None


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Statistics, the selections made from them, and the seconds of each stage of measuring."""

    statistics: hcnr.Statistics
    selections: Selections
    stages: dict[str, float]

    def seconds(self, kind: str) -> float:
        """What measuring costs somebody who wants one kind of compensation alone."""
        return sum(
            spent for stage, spent in self.stages.items() if kind in _NEEDED_BY.get(stage, (kind,))
        )

    @property
    def selecting(self) -> float:
        """What ranking the neurons once takes."""
        return self.selections.seconds / max(len(self.selections), 1)
