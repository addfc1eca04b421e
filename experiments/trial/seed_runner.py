"""One seed of a trial: all candidates on validation questions, the selected ones on others."""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.trial.candidate_builder import CandidateBuilder
from experiments.trial.candidate_specs import CandidateSpec, candidate_key
from experiments.trial.evaluator import Evaluator
from experiments.trial.journal import Journal
from experiments.trial.methods import Method
from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import MethodResult, References
from experiments.trial.selection import BASELINES, Scored, Selected, select, select_baseline
from experiments.trial.testbed import SPLITS, TestBed
from experiments.trial.text_data import Split
from hcnr.progress import Watcher

_Scored = dict[str, Scored]
"""Key -> candidate, as evaluated."""
_Selection = tuple[Scored, dict[str, Scored]]
"""A method's candidate, and each baseline's against it."""


class SeedRunner:
    """Have candidates of one test bed built and evaluated, but for those that the journal holds."""

    def __init__(self, testbed: TestBed, journal: Journal, watcher: Watcher) -> None:
        """Evaluators are prepared when they are first needed."""
        self._testbed, self._journal, self._watcher = testbed, journal, watcher
        self._evaluators: dict[Split, Evaluator] = {}

    def references(self) -> References:
        """Metrics of base, of tuned and of always refusing."""
        paths = {"base": self._testbed.base, "tuned": self._testbed.tuned}
        self._watcher.begin(f"seed {self._testbed.seed}: base and tuned")
        references: References = {
            name: {split: self._reference(name, path, split) for split in SPLITS}
            for name, path in paths.items()
        }
        references["refuse all"] = {split: self._evaluator(split).refuse_all() for split in SPLITS}
        return references

    def run(
        self, methods: Sequence[Method], levels: Sequence[float], tuned: Metrics
    ) -> dict[str, MethodResult]:
        """Evaluate all candidates of some methods, select, and evaluate those selected once more.

        Every method's selection is compared with the baselines among `methods`, each selecting a
        candidate that keeps at least as much on the validation questions. All selections are made
        before the first test question is asked of a candidate.

        Args:
            methods: In printed order; those on the same samples share what is measured.
            levels: Of retention, in percent.
            tuned: Metrics of the tuned model on the validation questions.
        """
        unchanged = Scored.tuned(tuned)
        with contextlib.ExitStack() as opened:
            builders = {
                samples: opened.enter_context(CandidateBuilder(self._testbed, samples))
                for samples in dict.fromkeys(method.samples for method in methods)
            }
            scored = {
                method.name: self._scored(builders[method.samples], method) for method in methods
            }
            choices = _select_all(scored, levels, unchanged)
            tested = {id(unchanged): self._reference("tuned", self._testbed.tuned, "evaluated")}
            for method in methods:
                wanted = _selected_by_any(scored[method.name], choices)
                specs = {key: one for key, one in _specs(method).items() if key in wanted}
                metrics_of = self._metrics(
                    builders[method.samples], method.name, specs, "evaluated"
                )
                tested.update(
                    {id(wanted[key]): metrics for key, (metrics, _) in metrics_of.items()}
                )
        return {
            name: MethodResult(
                list(scored[name].values()),
                {level: _selected(choice, tested) for level, choice in by_level.items()},
            )
            for name, by_level in choices.items()
        }

    def _scored(self, builder: CandidateBuilder, method: Method) -> _Scored:
        """All candidates of a method on the validation questions."""
        specs = _specs(method)
        return {
            key: Scored(specs[key].as_dict(), metrics, seconds)
            for key, (metrics, seconds) in self._metrics(
                builder, method.name, specs, "validation"
            ).items()
        }

    def _metrics(
        self, builder: CandidateBuilder, name: str, specs: Mapping[str, CandidateSpec], split: Split
    ) -> dict[str, tuple[Metrics, float]]:
        """Metrics and seconds of candidates by key, from the journal or from the evaluator."""
        by_key = {key: self._journal.get(key, split) for key in specs}
        missing = {key: specs[key] for key, known in by_key.items() if known is None}
        if missing:
            self._watcher.begin(f"seed {self._testbed.seed}: {name}, {split}")
            least = self._testbed.least_retention if split == "validation" else -math.inf
            counted = itertools.count(1)
            for candidate in builder.build(list(missing.values())):
                key = candidate_key(candidate.spec, builder.samples)
                metrics = self._evaluator(split)(
                    candidate.model, candidate.instruction, least=least
                )
                self._journal.add(key, split, metrics, candidate.seconds)
                by_key[key] = metrics, candidate.seconds
                self._watcher.advance(next(counted), len(missing))
        return {key: known for key, known in by_key.items() if known is not None}

    def _reference(self, name: str, path: Path, split: Split) -> Metrics:
        known = self._journal.get(name, split)
        if known is None:
            known = self._evaluator(split)(self._testbed.load(path)), 0.0
            self._journal.add(name, split, *known)
        return known[0]

    def _evaluator(self, split: Split) -> Evaluator:
        if split not in self._evaluators:
            self._evaluators[split] = self._testbed.evaluator(split)
        return self._evaluators[split]


def _specs(method: Method) -> dict[str, CandidateSpec]:
    return {candidate_key(one, method.samples): one for one in method.grid}


def _select_all(
    scored: Mapping[str, _Scored], levels: Sequence[float], tuned: Scored
) -> dict[str, dict[float, _Selection | None]]:
    """What every method selects at every level, with what the baselines select against it."""
    pools = {
        baseline: [one for name in own if name in scored for one in scored[name].values()]
        for baseline, own in BASELINES.items()
        if any(name in scored for name in own)
    }

    def choice(name: str, level: float) -> _Selection | None:
        own = select(list(scored[name].values()), tuned.validation, level)
        if own is None:
            return None
        against = {
            baseline: select_baseline(own.validation, pool, tuned)
            for baseline, pool in pools.items()
            if name not in BASELINES[baseline]
        }
        return own, {baseline: one for baseline, one in against.items() if one is not None}

    return {name: {level: choice(name, level) for level in levels} for name in scored}


def _selected_by_any(
    scored: _Scored, choices: Mapping[str, Mapping[float, _Selection | None]]
) -> _Scored:
    """Those of a method's candidates that are selected, for it or as a baseline of another."""
    wanted = {
        id(one)
        for by_level in choices.values()
        for choice in by_level.values()
        if choice is not None
        for one in (choice[0], *choice[1].values())
    }
    return {key: one for key, one in scored.items() if id(one) in wanted}


def _selected(choice: _Selection | None, tested: Mapping[int, Metrics]) -> Selected | None:
    if choice is None:
        return None
    own, against = choice
    baselines = {baseline: Selected(one, tested[id(one)]) for baseline, one in against.items()}
    return Selected(own, tested[id(own)], baselines)
