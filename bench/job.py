"""Sections of `make gpu` that run whole jobs: 8B shapes, 70B shapes by the block, a sweep."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

import hcnr
from bench.goals import Record, judged
from bench.pairs import (
    LLAMA_8B,
    LLAMA_70B,
    SMALL,
    SPARE_BYTES,
    PairFiles,
    room_for,
    weight_bytes,
    written,
)
from bench.timing import synchronise
from bench.worker import Recorder, Settings, started
from hcnr.choosing.front import Scores
from hcnr.search.grid import Grid

COUNT, LENGTH, RESPONSE = 128, 256, 64
"""Samples of each set, their words, and of these the answer's: 65 536 tokens in all."""

TARGETS = {("input", "sum"): (15.0, 80.0), ("output", "sum"): (None, 120.0),
           ("output", "spectral"): (None, None)}  # fmt: skip
"""Target and prediction of the seconds of a job at 8B shapes."""

Kinds = tuple[tuple[Any, Any], ...]
"""Axes and compensations of jobs."""

BLOCKS_70B, TARGET_70B = 80, 300.0
FEW, MORE = 1, 3
"""Blocks of the two models whose difference is what a block of 70B shapes takes."""

PAPER = tuple(step / 10 for step in range(3, 8))
SWEEP = Grid(PAPER, (0.2, 0.3, 0.4, 0.5, 0.6), ("sum",))
SWEEP_ROUNDS = 2


class Clock:
    """Watches a run and writes down every stage as soon as the next one begins.

    What lies between two stages counts with the first; the report of a run that ends has both.
    """

    def __init__(self, title: str, record: Recorder, device: torch.device) -> None:
        self._title, self._record, self._device = title, record, device
        self._stage: str | None = None

    def begin(self, stage: str) -> None:
        self.end()
        self._stage, self._start = stage, time.perf_counter()

    def advance(self, done: int, total: int) -> None: ...

    def end(self) -> None:
        if self._stage is None:
            return
        synchronise(self._device)
        spent = time.perf_counter() - self._start
        stage, self._stage = self._stage, None
        title = f"{self._title}: {stage}"
        # A case of its own: a job that is cut off is no result, but its stages are some.
        self._record(f"{self._title}, stages", {"title": title, "goal": judged("seconds", spent)})


@contextmanager
def pair(settings: Settings, shape: dict[str, int], **changed: int) -> Iterator[PairFiles]:
    sizes, count, length, response = {**shape, **changed}, COUNT, LENGTH, RESPONSE
    if settings.small:
        layers = min(4, changed.get("num_hidden_layers", 2))
        sizes = {**SMALL, "num_hidden_layers": layers}
        count, length, response = 6, 16, 6
    start = time.perf_counter()
    with written(settings.device, sizes, count, length, response) as files:
        print(f"a pair of {files.weights / 1e9:.2f} GB each was written to {files.where} in "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
        yield files


def configured(settings: Settings, **changed: Any) -> hcnr.RestoreConfig:
    """The paper's method: half of the neurons of two fifths of the matrices."""
    paper = {"compensation": "sum", "in_weight_ratio": 0.5, "cross_weight_ratio": 0.4}
    if changed.get("compensation") == "spectral":
        paper = {"task_weight": 10.0}
    return hcnr.RestoreConfig(**{"device": str(settings.device), **paper, **changed})


def restored(
    title: str, files: PairFiles, config: hcnr.RestoreConfig, settings: Settings, record: Recorder
) -> tuple[float, dict[str, float]]:
    """Seconds of one restoration from files to files, in all and by stage of its report."""
    clock = Clock(title, record, settings.device)
    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    hcnr.restore(**files.arguments, out=files.out, config=config, watcher=clock)
    clock.end()
    total = time.perf_counter() - start
    stages = json.loads((files.out / "hcnr_report.json").read_text())["seconds"]
    shutil.rmtree(files.out)
    return total, {**stages, "between stages": total - sum(stages.values())}


def whole(
    axis: Any, kind: Any, files: PairFiles, settings: Settings, record: Recorder
) -> list[Record]:
    """One job at 8B shapes: end to end, by stage, beside a copy of the same bytes."""
    title = f"8B shapes, {axis} axis, {kind}"
    total, stages = restored(
        title, files, configured(settings, axis=axis, compensation=kind), settings, record
    )
    peak = torch.cuda.max_memory_allocated() if settings.device.type == "cuda" else 0
    measuring = sum(s for name, s in stages.items() if name.startswith(("score", "curvature")))
    shape = f"2 x {len(files.task)} samples, {files.weights / 1e9:.2f} GB of weights, {files.where}"
    target, prediction = TARGETS[axis, kind]
    seconds = judged("seconds, safetensors to safetensors", total, target, prediction, True)
    return [
        {"title": title, "shape": shape, "goal": seconds, "peak_mib": peak / 2**20,
         "stages": stages, "note": "what it starts was compiled before, by a job of one block"},
        {"title": f"{title}, measuring", "shape": "its passes for scores and curvature",
         "goal": judged("seconds", measuring)},
        {"title": f"{title}, memory", "shape": f"{peak / 2**30:.1f} GiB at the peak",
         "goal": judged("peak over the weights of one model", peak / files.weights)},
    ]  # fmt: skip


def compiled(kinds: Kinds, settings: Settings) -> list[Record]:
    """One block of the same widths restored first: it compiles what the whole job starts."""
    rows = []
    with pair(settings, LLAMA_8B, num_hidden_layers=1, vocab_size=4096) as files:
        for axis, kind in kinds:
            start = time.perf_counter()
            config = configured(settings, axis=axis, compensation=kind)
            hcnr.restore(**files.arguments, out=files.out, config=config)
            shutil.rmtree(files.out)
            synchronise(settings.device)
            rows.append({"title": f"8B shapes, one block, {axis} axis, {kind}, cold",
                         "goal": judged("seconds", time.perf_counter() - start)})  # fmt: skip
    return rows


def copied(files: PairFiles) -> list[Record]:
    """The job's bytes without a job: both checkpoints read, one written."""
    buffer, start, count = bytearray(2**26), time.perf_counter(), 0
    for directory in (files.base, files.tuned):
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while size := file.readinto(buffer):
                    count += size
    reading = time.perf_counter() - start
    start = time.perf_counter()
    shutil.copytree(files.tuned, files.out)
    writing = time.perf_counter() - start
    shutil.rmtree(files.out)
    shape = f"{count / reading / 1e9:.1f} GB/s read, {count / 2 / writing / 1e9:.1f} GB/s copied"
    return [
        {"title": "8B shapes, the bytes alone", "shape": shape,
         "goal": judged("seconds to read two checkpoints and copy one", reading + writing)}
    ]  # fmt: skip


def at_8b(kinds: Kinds, settings: Settings, record: Recorder) -> None:
    def room() -> list[Record]:
        room_for(0 if settings.small else 3 * weight_bytes(LLAMA_8B) + SPARE_BYTES)
        return []

    record.attempt("room for the files", room, always=True)
    if record.failures:
        return
    record.attempt("one block, cold", lambda: compiled(kinds, settings), always=True)
    with pair(settings, LLAMA_8B) as files:
        record.attempt("the bytes alone", lambda: copied(files))
        for axis, kind in kinds:
            record.attempt(
                f"8B shapes, {axis} axis, {kind}",
                partial(whole, axis, kind, files, settings, record),
            )


def by_the_block(settings: Settings, record: Recorder) -> list[Record]:
    """70B shapes: what each further block takes, and what 80 such blocks would."""
    timings: list[tuple[float, dict[str, float]]] = []
    for what, blocks in (("to compile", FEW), ("few", FEW), ("more", MORE)):
        changed = {"num_hidden_layers": blocks, "vocab_size": 4096}
        with pair(settings, LLAMA_70B, **changed) as files:
            title = f"70B shapes, {blocks} blocks ({what})"
            config = configured(settings, axis="input")
            timings.append(restored(title, files, config, settings, record))
    (few, few_stages), (more, more_stages) = timings[1:]
    each = (more - few) / (MORE - FEW)
    rows = [
        {"title": f"70B shapes, a block: {stage}",
         "goal": judged("seconds", (spent - few_stages.get(stage, 0.0)) / (MORE - FEW))}
        for stage, spent in more_stages.items()
    ]  # fmt: skip
    goal = judged(f"seconds of {BLOCKS_70B} blocks", BLOCKS_70B * each, TARGET_70B, None, True)
    shape = f"{each:.2f} s a block, from models of {FEW} and {MORE} blocks, input axis, sum"
    note = "a product, not a run: no model of 80 blocks was restored, and its head is left out"
    return [
        {"title": "70B shapes, by the block", "shape": shape, "goal": goal, "note": note},
        *rows,
    ]


def swept(settings: Settings) -> list[Record]:
    """25 configurations over one restoration, evaluation aside, at four blocks of 8B shapes."""
    with pair(settings, LLAMA_8B, num_hidden_layers=4, vocab_size=4096) as files:
        config = configured(settings, axis="input", task_weight=1.0)
        scores = Scores(0.0, 0.0, 0.0)

        def sweep() -> None:
            result = hcnr.sweep(
                **files.arguments, grid=SWEEP, config=config, evaluate=lambda _: scores,
                coefficients=(), refine=False,
            )  # fmt: skip
            assert len(result.candidates) == len(SWEEP.configs(config))

        contenders: dict[str, Callable[[], Any]] = {
            "one": lambda: hcnr.restore(**files.arguments, config=config),
            "sweep": sweep,
        }
        rounds = 1 if settings.quick else SWEEP_ROUNDS
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(rounds + 1):  # the first compiles
            for name, call in contenders.items():
                start = time.perf_counter()
                call()
                synchronise(settings.device)
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        of_one, of_sweep = (min(seconds[name]) for name in ("one", "sweep"))
        ratio = of_sweep / of_one
        return [
            {"title": "a sweep of 25 configurations",
             "shape": f"{of_sweep:.1f} s beside {of_one:.1f} s, least of {rounds}, {files.where}",
             "goal": judged("time over one restoration", ratio, 1.25, None, at_most=True)}
        ]  # fmt: skip


def main() -> int:
    settings, record = started("8b")
    if record.section == "8b":
        at_8b((("input", "sum"), ("output", "sum")), settings, record)
    elif record.section == "8b-spectral":
        at_8b((("output", "spectral"),), settings, record)
    elif record.section == "70b":
        record.attempt("70B shapes, by the block", lambda: by_the_block(settings, record))
    else:
        record.attempt("a sweep of 25 configurations", lambda: swept(settings))
    return int(record.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
