"""`python -m bench.pretrained BASE TUNED --honesty FILE --task FILE`: a repair beside bare passes.

What the default of `hcnr restore` costs on one thread of a CPU over the bare passes that it cannot
do without: forward and backward without weight gradients over what it measures, forward over what
it judges by. All is counted in seconds of the processor, so that a busy machine changes the ratios
little; bare passes run before and after. Beside the factorising stand the eigenvalue problems
alone. The pair that `make demo-real` keeps will do.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

import hcnr
from hcnr.config import RestoreConfig
from hcnr.curvature.passes import mean_loss, micro_batches, prepared, sample_losses
from hcnr.data.repair_data import MeasuringData, leave_room, read_data
from hcnr.models.open_models import Role
from hcnr.models.pair import Pair
from hcnr.progress import CURVATURE, FACTORISE, Stages

MEASURED: dict[str, Role] = {"honesty": "base", "task": "tuned"}
"""Where the default takes the curvature of each data set."""


class Bare(NamedTuple):
    """Seconds of the processor for passes with nothing collected.

    Attributes:
        measuring: forward and backward over both measured sets.
        judging: forward over both held-back sets, by data set.
    """

    measuring: float
    judging: dict[str, float]

    def needed(self, tries: int) -> float:
        """Of a restoration whose search asks `tries` models: base, tuned, restored and these."""
        return self.measuring + 3 * sum(self.judging.values()) + tries * self.judging["task"]


class Clock:
    """A watcher that counts seconds of the processor by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stage, self._since = "", 0.0

    def begin(self, stage: str) -> None:
        now = time.process_time()
        if self._stage:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def advance(self, done: int, total: int) -> None: ...

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def spent(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def bare(pair: Pair, config: RestoreConfig, data: MeasuringData) -> Bare:
    """The passes alone, by the micro-batches of the restoration."""
    budget, measuring, judging = config.token_budget, 0.0, {}
    with pair.models(config) as models:
        for name, role in MEASURED.items():
            model, samples = models.at(role)[0], data.sets[name]

            def passes(model=model, samples=samples) -> None:
                with prepared(model):
                    for batch in micro_batches(model, samples, range(len(samples)), budget):
                        sample_losses(model, batch).sum().backward()

            measuring += spent(passes)
            held = data.held_back.get(name)
            if held is not None:
                judging[name] = spent(
                    lambda model=model, held=held: mean_loss(model, held, token_budget=budget)
                )
    return Bare(measuring, judging)


@contextmanager
def eigenvalue_problems(seconds: list[float]) -> Iterator[None]:
    """Note what LAPACK takes for each eigenvalue problem meanwhile."""
    solve = torch.linalg.eigh

    def timed(*args: object, **kwargs: object) -> object:
        start = time.process_time()
        try:
            return solve(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - start)

    with mock.patch.object(torch.linalg, "eigh", timed):
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios of one restoration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", type=Path)
    parser.add_argument("--honesty", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--dtype", default="auto", help="of the passes: auto, float32, bfloat16")
    parser.add_argument("--block-size", type=int, help="factorise diagonal blocks of this size")
    parser.add_argument("--samples", type=int, default=128, help="of each data set")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = RestoreConfig(
        device="cpu", dtype=chosen.dtype, block_size=chosen.block_size, samples=chosen.samples
    )
    stages = Stages()
    pair = Pair.open(chosen.base, chosen.tuned, config, stages)
    config = leave_room(config, chosen.task, pair.messages)
    data = read_data(
        pair, chosen.honesty, chosen.task, config, None, stages, holding=True, base_runs=True
    )
    clock, problems = Clock(), list[float]()
    before = bare(pair, config, data)
    with tempfile.TemporaryDirectory() as scratch, eigenvalue_problems(problems):
        out = Path(scratch) / "restored"
        hcnr.restore(
            chosen.base, chosen.tuned, chosen.honesty, chosen.task, out, config, watcher=clock
        )
        clock.begin("")
        report = hcnr.read_report(out)
    after = bare(pair, config, data)
    tries = len(report["two_sided"]["search"])
    needed = (before.needed(tries) + after.needed(tries)) / 2
    passes = (before.measuring + after.measuring) / 2
    taken = sum(seconds for stage, seconds in clock.seconds.items() if stage.startswith(CURVATURE))
    print(f"{chosen.dtype}, {len(pair.matrices)} matrices, {tries} task weights tried")
    print(f"bare passes before over after: {before.needed(tries) / after.needed(tries):.2f}")
    print(f"the whole restoration over the bare passes it needs: {clock.total / needed:.2f}")
    print(f"curvature along both axes over its bare passes: {taken / passes:.2f}")
    print(f"factorising over these bare passes: {clock.seconds[FACTORISE] / passes:.2f}")
    print(f"  of which {len(problems)} eigenvalue problems: {sum(problems) / passes:.2f}")
    for stage, seconds in clock.seconds.items():
        print(f"{stage}: {100 * seconds / clock.total:.1f} %")


if __name__ == "__main__":
    main()
