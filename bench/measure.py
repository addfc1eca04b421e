"""Sections "passes" and "races" of `make gpu`: measuring at the shapes of Llama-3.1-8B."""

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
from bench.worker import Recorder, Settings, started
from hcnr_kernels.checks import Axis

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from bench.passes import Race

SIZES = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
         "num_key_value_heads": 8}  # fmt: skip
MODELS = {
    "race": {**SIZES, "num_hidden_layers": 4, "vocab_size": 4096},
    "passes": {**SIZES, "num_hidden_layers": 16, "vocab_size": 128256},
}
"""Half of the blocks of 8B and its head, as many as fit beside their activations; what races
against slower ways, which hold more, has an eighth of them."""

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


LOOP_TARGETS = {"short": (5.0, 6.0), "equal": (None, 3.0)}
"""Target and prediction by kind of lengths. The loop does 6 operations per weight and token to our
4; at 256 tokens its products reach half the rate, at 64 tokens a sixth."""


def lengths(kind: str, small: bool) -> list[int]:
    """8192 tokens or so: all samples of 256 or of 64, or 16 to 1024 in geometric steps."""
    count, equal, longest = (6, 24, 48) if small else (32, 256, 1024)
    if kind == "short":
        return [equal // 4] * (4 * count)
    if kind == "equal":
        return [equal] * count
    steps = [16 * (longest / 16) ** (i / (count - 1)) for i in range(count)]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return [round(steps[i]) for i in order]


def timed(
    race: "Race", title: str, contenders: dict[str, Callable[[], Any]], settings: Settings
) -> Record:
    """A row: ours, the first, beside the others."""
    seconds, least = (1.0, 3) if settings.quick or settings.small else (5.0, 5)
    times = interleaved(contenders, settings.device, seconds=seconds, least=least, most=20)
    ours = times.pop("ours")
    return {
        "title": title,
        "shape": f"{race.model.config.num_hidden_layers} blocks, {len(race.data)} samples, "
        f"{race.data.counts.tokens} tokens",
        "dtype": str(race.model.dtype).removeprefix("torch."),
        "ms": ours._asdict(),
        "rivals": {
            name: {**one._asdict(), "ratio": one.p50 / ours.p50} for name, one in times.items()
        },
    }


def over(record: Record, name: str) -> float:
    """Our time over another's."""
    return 1 / record["rivals"][name]["ratio"]


def over_bare(race: "Race", axis: Axis, kind: str, settings: Settings) -> list[Record]:
    from bench.passes import bare, scoring

    contenders = {"ours": lambda: scoring(race, axis), BARE: lambda: bare(race)}
    record = timed(race, f"scoring pass, {axis} axis, {kind} lengths", contenders, settings)
    predicted = PREDICTIONS[axis, kind]
    goal = judged("time over bare passes", over(record, BARE), 1.10, predicted, True)
    return [{**record, "goal": goal}]


def curvature_pass(race: "Race", axis: Axis, settings: Settings) -> list[Record]:
    from bench.passes import bare, bare_forward, curving

    rival = "bare forward" if axis == "input" else BARE
    contenders = {
        "ours": lambda: curving(race, axis),
        rival: (lambda: bare_forward(race)) if axis == "input" else (lambda: bare(race)),
    }
    record = timed(race, f"curvature pass, {axis} axis", contenders, settings)
    return [{**record, "goal": judged(f"time over {rival}", over(record, rival))}]


def against_loop(race: "Race", axis: Axis, kind: str, settings: Settings) -> list[Record]:
    """The same scores, sample by sample; both are compared before they are timed."""
    from bench.passes import batch_one_loop, scoring

    exact, ours = batch_one_loop(race, axis), scoring(race, axis)
    error = max(rms_ratio(ours[name].cpu(), exact[name].cpu().double()) for name in ours)
    assert error <= LOOP_TOLERANCE, f"scores differ from the batch-1 loop: {error:.1e}"
    contenders = {"ours": lambda: scoring(race, axis), LOOP: lambda: batch_one_loop(race, axis)}
    title = f"scores against a {LOOP}, {axis} axis, {kind} lengths"
    record = timed(race, title, contenders, settings)
    target, prediction = LOOP_TARGETS[kind]
    ratio = record["rivals"][LOOP]["ratio"]
    goal = judged(f"speed-up over {LOOP}", ratio, target, prediction)
    return [{**record, "error": error, "goal": goal}]


def against_kronfluence(race: "Race", response: int, settings: Settings) -> list[Record]:
    from bench.passes import kronfluence_diagonal, scoring

    with tempfile.TemporaryDirectory() as directory:
        rival = kronfluence_diagonal(race, response, Path(directory))
        if rival is None:
            note = "not timed: it or what it needs is not installed (make gpu-wheels)"
            return [{"title": f"scores against {KRONFLUENCE}", "note": note}]
        contenders = {"ours": lambda: scoring(race, "output"), KRONFLUENCE: rival}
        record = timed(race, f"scores against {KRONFLUENCE}", contenders, settings)
    ratio = record["rivals"][KRONFLUENCE]["ratio"]
    note = "its factors go to the CPU, as it does, but not to disk"
    goal = judged(f"speed-up over {KRONFLUENCE}", ratio, 3.0)
    return [{**record, "goal": goal, "note": note}]


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


AXES: tuple[Axis, ...] = ("output", "input")


def races(settings: Settings, record: Recorder) -> None:
    """Against what else computes such scores; what has to agree, agrees before it is timed."""
    model, response = made("race", settings)
    for kind in ("short", "equal"):
        race = raced(model, kind, response, settings)
        for axis in AXES:
            record.attempt(
                f"loop, {axis} axis, {kind} lengths",
                partial(against_loop, race, axis, kind, settings),
            )
        if kind == "equal":
            record.attempt("kronfluence", partial(against_kronfluence, race, response, settings))


def passes(settings: Settings, record: Recorder) -> None:
    """Over passes that collect nothing."""
    model, response = made("passes", settings)
    for kind in ("equal", "mixed"):
        race = raced(model, kind, response, settings)
        for axis in AXES:
            record.attempt(
                f"scoring pass, {axis} axis, {kind} lengths",
                partial(over_bare, race, axis, kind, settings),
            )
            if kind == "equal":
                record.attempt(f"memory, {axis} axis", partial(memory, race, axis, settings))
                record.attempt(f"determinism, {axis} axis", partial(repeated, race, axis))
                record.attempt(
                    f"curvature pass, {axis} axis", partial(curvature_pass, race, axis, settings)
                )


def made(name: str, settings: Settings) -> "tuple[LlamaForCausalLM, int]":
    """A model of `MODELS`, and how many tokens of a sample carry loss, at most."""
    from bench.passes import llama

    sizes = SMALL if settings.small else MODELS[name]
    model = llama(settings.device, torch.bfloat16, max_position_embeddings=1024, **sizes)
    return model, 8 if settings.small else 64


def raced(model: "LlamaForCausalLM", kind: str, response: int, settings: Settings) -> "Race":
    from bench.passes import Race, random_samples

    data = random_samples(lengths(kind, settings.small), response, model.config.vocab_size)
    return Race(model, data, 96 if settings.small else 8192)


def main() -> int:
    settings, record = started("measure")
    print(use_without_settings())
    (races if record.section == "races" else passes)(settings, record)
    return int(record.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
