"""Baselines of the paper: trainings of every weight, on more than the samples of a repair.

All are trained on one thread, by the tool's token rule and, where the processor has them, with
products in bfloat16; the supervised ones by the loop that trained the pair.
"""

import copy
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from experiments.trial.baseline_data import BaselineData, PoolQuestion
from experiments.trial.candidate_specs import CandidateSpec, Preferred, Rehearsed, Trained
from experiments.trial.preferences import Pair, check_trl, make_pairs, prefer
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo.real.training import Schedule, train
from hcnr.errors import ConfigError, DataError
from hcnr.models.model import fast_bfloat16

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from experiments.trial.testbed import TestBed

BATCH_SIZE = 16
"""Samples of a step of supervised training."""
_THREADS = 1


class BaselineTrainer:
    """Trains the baselines of one test bed, each once: chosen ones are asked for again.

    What was trained waits in temporary files until `close`.
    """

    def __init__(self, testbed: "TestBed", honesty: Sequence[Sample]) -> None:
        """Take the test bed and the honesty samples that a repair is given; nothing is made yet."""
        self._testbed, self._honesty = testbed, list(honesty)
        self._pairs: dict[int, tuple[list[Pair], float]] = {}
        self._kept: dict[Trained, tuple[Path, float]] = {}
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove the files."""
        self._kept.clear()
        if self._place is not None:
            self._place.cleanup()
            self._place = None

    def train(self, spec: Trained, tuned: "LlamaForCausalLM") -> tuple["LlamaForCausalLM", float]:
        """Train one baseline.

        Args:
            spec: which.
            tuned: the tuned model, which stays as it is.

        Returns:
            Another model, in inference mode, and the processor's seconds of its training, to which
            the answers that DPO and ORPO share belong.

        Raises:
            ConfigError: the world has nothing that baselines may train on.
            DataError: its pool is smaller than the baseline asks for.
            HcnrError: TRL is needed and not installed.
        """
        if spec in self._kept:
            file, seconds = self._kept[spec]
            model = copy.deepcopy(tuned)
            model.load_state_dict(torch.load(file, mmap=True, weights_only=True))
            return model, seconds
        model, seconds = self._trained(spec, tuned)
        if self._place is None:
            self._place = tempfile.TemporaryDirectory()
        file = Path(self._place.name) / f"{len(self._kept)}.pt"
        torch.save(model.state_dict(), file)
        self._kept[spec] = file, seconds
        return model, seconds

    def _trained(
        self, spec: Trained, tuned: "LlamaForCausalLM"
    ) -> tuple["LlamaForCausalLM", float]:
        # Drawn before the clock starts: a user has their pool.
        data = self._data(spec)
        if isinstance(spec, Preferred):
            return self._preferred(spec, tuned, data.pool)
        start = time.process_time()
        if isinstance(spec, Rehearsed):
            model, schedule = self._testbed.load(self._testbed.base), data.schedule
            samples = [*data.task, *self._honesty * spec.repeats]
        else:
            model = copy.deepcopy(tuned)
            order = f"hcnr-trial-rait-{self._testbed.seed}"
            schedule = Schedule(spec.epochs, BATCH_SIZE, spec.rate, order, _THREADS)
            samples = [one.sample for one in _first(data.pool, spec.samples)]
        self._supervised(model, samples, schedule)
        return model, time.process_time() - start

    def _preferred(
        self, spec: Preferred, tuned: "LlamaForCausalLM", pool: Sequence[PoolQuestion]
    ) -> tuple["LlamaForCausalLM", float]:
        # Before the minutes that the tuned model's own answers take.
        check_trl([spec])
        tokenizer, start = self._testbed.tokenizer, time.process_time()
        if spec.samples not in self._pairs:
            pairs = make_pairs(tuned, tokenizer, _first(pool, spec.samples))
            self._pairs[spec.samples] = pairs, time.process_time() - start
        pairs, before = self._pairs[spec.samples]
        start = time.process_time()
        model = prefer(tuned, tokenizer, pairs, spec, self._testbed.seed)
        return model, before + time.process_time() - start

    def _data(self, spec: CandidateSpec) -> BaselineData:
        if self._testbed.baseline_data is None:
            raise ConfigError(
                f"the world {self._testbed.world} has no pool of questions for "
                f"{spec.as_dict()['made']}, expected a pretrained one; choose another --world, "
                "or leave it out of --ways"
            )
        return self._testbed.baseline_data()

    def _supervised(
        self, model: "LlamaForCausalLM", samples: Sequence[Sample], schedule: Schedule
    ) -> None:
        pad = self._testbed.tokenizer.pad_token_id
        with torch.enable_grad():
            train(
                model,
                tokenize(samples, self._testbed.tokenizer),
                schedule,
                pad=pad if isinstance(pad, int) else 0,
                bfloat16=fast_bfloat16(),
            )


def _first(pool: Sequence[PoolQuestion], count: int) -> Sequence[PoolQuestion]:
    if len(pool) < count:
        raise DataError(
            f"the pool of the baselines has {len(pool)} questions, expected at least {count}; "
            "choose fewer samples"
        )
    return pool[:count]
