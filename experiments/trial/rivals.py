"""Rivals of the paper: trainings of every weight, on more than the samples of a repair.

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

from experiments.trial.making import Making, Preferred, Rehearsed, Trained
from experiments.trial.preferences import Pair, check_trl, make_pairs, prefer
from experiments.trial.rival_data import PoolQuestion, RivalData
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize
from hcnr.demo.real.training import Schedule, train
from hcnr.errors import ConfigError, DataError
from hcnr.models.model import fast_bfloat16

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from experiments.trial.arena import Arena

BATCH_SIZE = 16
"""Samples of a step of supervised training."""
_THREADS = 1


class Rivals:
    """Trains the rivals of one arena, each once: chosen ones are asked for again.

    What was trained waits in temporary files until `close`.
    """

    def __init__(self, arena: "Arena", honesty: Sequence[Sample]) -> None:
        """Take the arena and the honesty samples that a repair is given; nothing is made yet."""
        self._arena, self._honesty = arena, list(honesty)
        self._pairs: dict[int, tuple[list[Pair], float]] = {}
        self._kept: dict[Trained, tuple[Path, float]] = {}
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove the files."""
        self._kept.clear()
        if self._place is not None:
            self._place.cleanup()
            self._place = None

    def train(self, making: Trained, tuned: "LlamaForCausalLM") -> tuple["LlamaForCausalLM", float]:
        """Train one rival.

        Args:
            making: which.
            tuned: the tuned model, which stays as it is.

        Returns:
            Another model, in inference mode, and the processor's seconds of its training, to which
            the answers that DPO and ORPO share belong.

        Raises:
            ConfigError: the world has nothing that rivals may train on.
            DataError: its pool is smaller than the rival asks for.
            HcnrError: TRL is needed and not installed.
        """
        if making in self._kept:
            file, seconds = self._kept[making]
            model = copy.deepcopy(tuned)
            model.load_state_dict(torch.load(file, mmap=True, weights_only=True))
            return model, seconds
        model, seconds = self._trained(making, tuned)
        if self._place is None:
            self._place = tempfile.TemporaryDirectory()
        file = Path(self._place.name) / f"{len(self._kept)}.pt"
        torch.save(model.state_dict(), file)
        self._kept[making] = file, seconds
        return model, seconds

    def _trained(
        self, making: Trained, tuned: "LlamaForCausalLM"
    ) -> tuple["LlamaForCausalLM", float]:
        # Drawn before the clock starts: a user has their pool.
        data = self._data(making)
        if isinstance(making, Preferred):
            return self._preferred(making, tuned, data.pool)
        start = time.process_time()
        if isinstance(making, Rehearsed):
            model, schedule = self._arena.load(self._arena.base), data.schedule
            samples = [*data.task, *self._honesty * making.repeats]
        else:
            model = copy.deepcopy(tuned)
            order = f"hcnr-trial-rait-{self._arena.seed}"
            schedule = Schedule(making.epochs, BATCH_SIZE, making.rate, order, _THREADS)
            samples = [one.sample for one in _first(data.pool, making.samples)]
        self._supervised(model, samples, schedule)
        return model, time.process_time() - start

    def _preferred(
        self, making: Preferred, tuned: "LlamaForCausalLM", pool: Sequence[PoolQuestion]
    ) -> tuple["LlamaForCausalLM", float]:
        # Before the minutes that the tuned model's own answers take.
        check_trl([making])
        tokenizer, start = self._arena.tokenizer, time.process_time()
        if making.samples not in self._pairs:
            pairs = make_pairs(tuned, tokenizer, _first(pool, making.samples))
            self._pairs[making.samples] = pairs, time.process_time() - start
        pairs, before = self._pairs[making.samples]
        start = time.process_time()
        model = prefer(tuned, tokenizer, pairs, making, self._arena.seed)
        return model, before + time.process_time() - start

    def _data(self, making: Making) -> RivalData:
        if self._arena.rival_data is None:
            raise ConfigError(
                f"the world {self._arena.world} has no pool of questions for "
                f"{making.as_dict()['made']}, expected a pretrained one; choose another --world, "
                "or leave it out of --ways"
            )
        return self._arena.rival_data()

    def _supervised(
        self, model: "LlamaForCausalLM", samples: Sequence[Sample], schedule: Schedule
    ) -> None:
        pad = self._arena.tokenizer.pad_token_id
        with torch.enable_grad():
            train(
                model,
                tokenize(samples, self._arena.tokenizer),
                schedule,
                pad=pad if isinstance(pad, int) else 0,
                bfloat16=fast_bfloat16(),
            )


def _first(pool: Sequence[PoolQuestion], count: int) -> Sequence[PoolQuestion]:
    if len(pool) < count:
        raise DataError(
            f"the pool of the rivals has {len(pool)} questions, expected at least {count}; choose "
            "fewer samples"
        )
    return pool[:count]
