"""What `make bench-compare` times, through names that revisions share; a worker of one checkout.

    python contenders.py CHECKOUT    # a line "index" on standard input: times that call

The file is run by its path, with the other checkout's packages first on the import path: it may
import only what every revision has. Times are seconds of the processor, of one thread: what else
the machine does is not among them.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if "--without-extension" in sys.argv:  # before anything looks for it
    sys.modules["hcnr_kernels._native"] = None  # pyright: ignore[reportArgumentType]

import torch

import hcnr_kernels as hk

Call = Callable[[], object]


def calls() -> Iterator[tuple[str, Callable[[], Call]]]:
    """Name -> what prepares the call; inputs are drawn from a fixed seed."""
    for axis in ("output", "input"):
        yield f"fisher_{axis}_, 16 x 128 tokens, 512 -> 1376", lambda axis=axis: _fisher(axis)
    yield "gram_, 2048 tokens, 1376", _gram
    yield "inverse_hessian, 1024", lambda: _inverse(1024)
    for kind in ("sum", "joint", "balanced"):
        yield f"compensation {kind}, 1024 x 1024", lambda kind=kind: _compensation(kind)
    yield "objective, 1024 x 1024", _objective
    for shape in ((2048, 2048), (4608, 1536)):
        words = f"perturbation, {shape[0]} x {shape[1]}, bf16"
        yield words, lambda shape=shape: _perturbation(shape)
    yield "merge, 2048 x 2048, bf16", _merge
    for words, lengths in (("equal", [64] * 16), ("mixed", list(range(16, 128, 7)))):
        yield f"score, 4 blocks of 256, {words} lengths", lambda of=lengths: _score(of)


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _curvature(width: int) -> torch.Tensor:
    x = _randn(2 * width, width, seed=1)
    return x.T @ x / len(x)


def _half(width: int) -> torch.Tensor:
    return torch.arange(width) % 2 == 0


def _fisher(axis: str) -> Call:
    x, g = _randn(2048, 512, seed=2), _randn(2048, 1376, seed=3)
    bounds = torch.arange(17, dtype=torch.int32) * 128
    run = getattr(hk, f"fisher_{axis}_")
    scores = torch.zeros(1376 if axis == "output" else 512)
    return lambda: run(scores, x, g, bounds, max_seqlen=128)


def _gram() -> Call:
    total, x = torch.zeros(1376, 1376), _randn(2048, 1376)
    return lambda: hk.gram_(total, x)


def _inverse(width: int) -> Call:
    hessian = _curvature(width)
    return lambda: hk.inverse_hessian(hessian)


def _compensation(kind: str) -> Call:
    delta, mask, hessian = _randn(1024, 1024), _half(1024), _curvature(1024)
    task = hessian if kind == "balanced" else None
    return lambda: hk.compensation(delta, mask, hessian, axis="input", kind=kind, task_hessian=task)  # pyright: ignore[reportArgumentType]


def _objective() -> Call:
    delta, hessian = _randn(1024, 1024), _curvature(1024)
    return lambda: hk.objective(delta, hessian, axis="input")


def _perturbation(shape: tuple[int, int]) -> Call:
    base, tuned = (_randn(*shape, seed=seed).bfloat16() for seed in (4, 5))
    mask = _half(shape[0])
    return lambda: hk.perturbation(base, tuned, mask, axis="output")


def _merge() -> Call:
    base, tuned = (_randn(2048, 2048, seed=seed).bfloat16() for seed in (4, 5))
    mask = _half(2048)
    return lambda: hk.merge(base, tuned, mask, None, axis="output", dtype=torch.bfloat16)


def _score(lengths: list[int]) -> Call:
    from bench.passes import Race, llama, random_samples, scoring

    model = llama(torch.device("cpu"), torch.float32, hidden_size=256, intermediate_size=688,
                  num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4,
                  vocab_size=4096)  # fmt: skip
    race = Race(model, random_samples(lengths, 16, 4096), 1024)
    return lambda: scoring(race, "input")


def serve() -> None:
    """Answer every line with a line: names at first, then seconds, or why a call cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--without-extension", action="store_true")
    checkout = parser.parse_args().checkout.resolve()
    if not Path(hk.__file__).resolve().is_relative_to(checkout):
        raise SystemExit(f"{hk.__file__} was imported, not the package of {checkout}")
    torch.set_num_threads(1)
    prepared: dict[int, Call | str] = {}
    rows = list(calls())
    print(json.dumps([name for name, _ in rows]), flush=True)
    for line in sys.stdin:
        index = int(line)
        try:
            if index not in prepared:
                prepared[index] = rows[index][1]()
                prepared[index]()  # fills caches  # pyright: ignore[reportCallIssue]
            call = prepared[index]
            start = time.process_time()
            call()  # pyright: ignore[reportCallIssue]
            answer: float | str = time.process_time() - start
        except Exception as error:  # a revision that lacks a name must not end the others
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
