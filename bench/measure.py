"""Section "measure" of `make gpu`: the scoring pass at the shapes of Llama-3.1-8B."""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.cases import rms_ratio
from bench.goals import Record, judged
from bench.lean import use_without_settings
from bench.timing import interleaved, peak_bytes
from bench.worker import Settings, started
from hcnr_kernels.checks import Axis

if TYPE_CHECKING:
    from bench.passes import Race

SIZES = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
         "num_key_value_heads": 8, "num_hidden_layers": 4, "vocab_size": 4096}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 128}  # fmt: skip
WEIGHT_BYTES_8B = 2 * 8.03e9
"""What scoring holds does not grow with the number of blocks, except its sums, a megabyte; so it
is set against the weights of all 32."""

BARE, LOOP, KRONFLUENCE = "bare forward + backward", "batch-1 loop", "kronfluence diagonal"
PREDICTIONS = {
    ("output", "equal"): 1.06, ("input", "equal"): 1.08,
    ("output", "mixed"): 1.12, ("input", "mixed"): 1.15,
}  # fmt: skip
"""Of the time over bare passes. From bytes: 0.4 ms a block at 3 TB/s, reached to a half, over 16 ms
of products; with mixed lengths the quadratic work of the longest samples comes on top."""

LOOP_TOLERANCE = 0.1
"""RMS ratio to the batch-1 loop: both round activations to bf16, in another order of the sums."""


def lengths(kind: str, small: bool) -> list[int]:
    """32 samples: all of 256 tokens, or 16 to 1024 tokens in geometric steps."""
    count, equal, longest = (6, 24, 48) if small else (32, 256, 1024)
    if kind == "equal":
        return [equal] * count
    steps = [16 * (longest / 16) ** (i / (count - 1)) for i in range(count)]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return [round(steps[i]) for i in order]


def timed(race: "Race", axis: Axis, kind: str, settings: Settings, response: int) -> list[Record]:
    """Scoring over bare passes and, for equal lengths, against what else computes scores."""
    from bench.passes import bare, batch_one_loop, kronfluence_diagonal, scoring

    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: scoring(race, axis),
        BARE: lambda: bare(race),
    }
    error = None
    if kind == "equal":
        exact, found = batch_one_loop(race, axis), scoring(race, axis)
        error = max(rms_ratio(found[name].cpu(), exact[name].cpu().double()) for name in found)
        assert error <= LOOP_TOLERANCE, f"scores differ from the batch-1 loop: {error:.1e}"
        contenders[LOOP] = lambda: batch_one_loop(race, axis)
    with tempfile.TemporaryDirectory() as directory:
        if kind == "equal" and axis == "output":
            rival = kronfluence_diagonal(race, response, Path(directory))
            if rival is None:
                print("kronfluence is not installed: no race against it")
            else:
                contenders[KRONFLUENCE] = rival
        seconds, least = (1.0, 3) if settings.quick or settings.small else (6.0, 7)
        times = interleaved(contenders, settings.device, seconds=seconds, least=least, most=20)
    ours = times.pop("ours")
    record: Record = {
        "title": f"scoring pass, {axis} axis, {kind} lengths",
        "shape": f"{len(race.data)} samples, {race.data.counts.tokens} tokens",
        "dtype": str(race.model.dtype).removeprefix("torch."),
        "ms": ours._asdict(),
        "rivals": {
            name: {**one._asdict(), "ratio": one.p50 / ours.p50} for name, one in times.items()
        },
        "error": error,
    }
    over = ours.p50 / times[BARE].p50
    predicted = PREDICTIONS[axis, kind]
    records = [{**record, "goal": judged("time over bare passes", over, 1.10, predicted, True)}]
    for name, target, prediction in ((LOOP, 5.0, 4.0), (KRONFLUENCE, 3.0, None)):
        if name in times:
            ratio = times[name].p50 / ours.p50
            goal = judged(f"speed-up over {name}", ratio, target, prediction)
            said = {"title": record["title"], "shape": record["shape"], "goal": goal}
            records.append(said)
    return records


def memory(race: "Race", axis: Axis, settings: Settings) -> list[Record]:
    """Peaks of the scoring pass over two kinds of passes that collect nothing."""
    from bench.passes import bare, keeping_inputs, scoring

    peaks = [
        peak_bytes(call, settings.device)
        for call in (
            lambda: scoring(race, axis),
            lambda: keeping_inputs(race),
            lambda: bare(race),
        )
    ]
    if any(peak is None for peak in peaks):
        return []
    ours, ordinary, nothing = (float(peak or 0) for peak in peaks)
    weights = sum(p.numel() * p.element_size() for p in race.model.parameters())
    title = f"memory of scoring, {axis} axis"
    above, all_of_it = ours - ordinary, ours - nothing
    return [
        {
            "title": title,
            "shape": f"{above / 2**20:.0f} MiB above weights and activations of a micro-batch, "
            f"{above / weights:.1%} of these {race.model.config.num_hidden_layers} blocks",
            "goal": judged(
                "share of the weights of 8B", above / WEIGHT_BYTES_8B, 0.05, 0.02, at_most=True
            ),
        },
        {
            "title": title,
            "shape": f"{all_of_it / 2**20:.0f} MiB above passes that keep no linear layer's "
            "input: grows with the number of blocks",
            "goal": judged("share of the weights of 8B", all_of_it / WEIGHT_BYTES_8B),
        },
    ]


def repeated(race: "Race", axis: Axis) -> list[Record]:
    """Whether two scoring passes give the same bits."""
    from bench.passes import scoring

    first, second = scoring(race, axis), scoring(race, axis)
    same = [torch.equal(first[name], second[name]) for name in first]
    return [
        {
            "title": f"determinism of scoring, {axis} axis",
            "shape": f"{len(same)} matrices, two runs",
            "goal": judged("share of matrices with equal bits", sum(same) / len(same)),
            "note": "the model's own attention may differ between runs",
        }
    ]


def main() -> int:
    settings, record = started("measure")
    print(use_without_settings())
    from bench.passes import Race, llama, random_samples

    response, budget = (8, 96) if settings.small else (64, 8192)
    sizes = SMALL if settings.small else SIZES
    model = llama(settings.device, torch.bfloat16, max_position_embeddings=1024, **sizes)
    axes: tuple[Axis, ...] = ("output", "input")
    for kind in ("equal", "mixed"):
        data = random_samples(lengths(kind, settings.small), response, sizes["vocab_size"])
        race = Race(model, data, budget)
        for axis in axes:
            record.attempt(
                f"scoring pass, {axis} axis, {kind} lengths",
                partial(timed, race, axis, kind, settings, response),
            )
            if kind == "equal":
                record.attempt(f"memory, {axis} axis", partial(memory, race, axis, settings))
                record.attempt(f"determinism, {axis} axis", partial(repeated, race, axis))
    return int(record.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
