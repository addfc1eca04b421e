"""Candidates made, evaluated and kept one by one; what is kept is not done again."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hcnr
from experiments.paper_figures.grids import Case
from experiments.paper_figures.overlap import overlaps
from experiments.paper_figures.stage import LEAST_KEPT, probe_records
from experiments.trial.candidate_builder import CandidateBuilder
from experiments.trial.candidate_specs import Restored, Samples, candidate_key
from experiments.trial.evaluator import Evaluator
from experiments.trial.journal import Journal
from experiments.trial.metrics import Metrics
from experiments.trial.testbed import TestBed
from hcnr.checkpoint import atomic_file

Say = Callable[[str], None]

PART = "validation"
"""The only questions that are asked: the figures choose nothing that is judged again."""


class FigureMaker:
    """Makes the figures of one pair into one folder, and goes on where it stopped."""

    def __init__(
        self, testbed: TestBed, full_testbed: TestBed, out: Path, journal: Journal, say: Say
    ) -> None:
        """Take over an open journal; nothing is measured yet.

        Args:
            testbed: with the questions that candidates are asked.
            full_testbed: with all validation questions, for the probes.
            out: gets what is measured.
            journal: of the pair, in `out`.
            say: told about every candidate.
        """
        self._testbed, self._full_testbed, self._out = testbed, full_testbed, out
        self._journal, self._say = journal, say
        self._evaluator: Evaluator | None = None

    def probe(self) -> dict[str, Any]:
        """Probes of base asked about tuned, block by block, as `hcnr probe` does it."""

        def made() -> dict[str, Any]:
            names = self._testbed.question_sets[PART].honesty
            question_sets = self._full_testbed.question_sets[PART]
            asked = {name: question_sets.honesty[name] for name in names}
            records = probe_records(dataclasses.replace(question_sets, honesty=asked))
            config = hcnr.RestoreConfig(device="cpu", samples=len(records))
            return hcnr.probe(
                self._testbed.base, self._testbed.tuned, records, config=config, progress=False
            ).as_dict()

        return self._once("probe", made)

    def overlap(self, samples: Samples) -> list[dict[str, Any]]:
        """Overlap of two halves of some samples; see `overlap.overlaps`."""

        def made() -> list[dict[str, Any]]:
            with CandidateBuilder(self._testbed, samples, keep=self._out) as work:
                statistics = work.statistics(Restored("none"))
                return overlaps(statistics, work.pair.base.view, work.pair.tuned.view)

        return self._once("overlap", made)

    def ends(self) -> None:
        """Evaluate base and tuned, whatever they keep."""
        for name, path in (("base", self._testbed.base), ("tuned", self._testbed.tuned)):
            if self._journal.get(name, PART) is None:
                metrics = self._metrics(self._testbed.load(path), least=-math.inf)
                self._add(name, name, metrics, 0.0)

    def candidates(self, cases: Sequence[Case]) -> None:
        """Evaluate the candidates of some cases that the journal does not hold."""
        missing = [one for one in cases if self._journal.get(key(one), PART) is None]
        for samples, of_samples in itertools.groupby(missing, lambda one: one.samples):
            labels = {key(one): one.labels for one in of_samples}
            specs = {key(one): one.spec for one in missing if key(one) in labels}
            with CandidateBuilder(self._testbed, samples, keep=self._out) as work:
                for candidate in work.build(list(specs.values())):
                    about = candidate_key(candidate.spec, samples)
                    self._add(
                        about,
                        _named(labels[about]),
                        self._metrics(candidate.model),
                        candidate.seconds,
                    )

    def _metrics(self, model: Any, least: float = LEAST_KEPT) -> Metrics:
        if self._evaluator is None:
            self._evaluator = self._testbed.evaluator(PART)
        return self._evaluator(model, least=least)

    def _add(self, about: str, name: str, metrics: Metrics, seconds: float) -> None:
        self._journal.add(about, PART, metrics, seconds)
        self._say(f"{name}: {metrics.retention:.1f} % kept, delta {metrics.refusal_delta:+.1f}")

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        file = self._out / f"{name}.json"
        if not file.is_file():
            content = make()
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            self._say(f"{name}: written")
        return json.loads(file.read_text(encoding="utf-8"))


def key(case: Case) -> str:
    """Under which the journal holds a case; cases of several figures may be one candidate."""
    return candidate_key(case.spec, case.samples)


def _named(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())
