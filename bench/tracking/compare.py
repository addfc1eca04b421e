"""`make bench-compare REF=main~5`: this checkout's times over another revision's, interleaved.

Two processes, one a checkout, are asked in turns for one run of one call; which goes first
alternates. A ratio is the median over the rounds of (ours / theirs), with an interval that holds
the true median 95 times of 100 whatever the distribution: of twenty calls that are alike, one is
marked as faster or slower. A machine that is busy in one round is busy for both. The committed
counts of both revisions stand below the times.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.lean import ROOT

LEVEL = 0.95
TIME_UP_SECONDS = 60


class Ratio(NamedTuple):
    """Ours over theirs: the median of the rounds, and an interval for it."""

    median: float
    low: float
    high: float


def interval(ratios: Sequence[float]) -> Ratio:
    """Median with the order statistics that enclose it with probability `LEVEL`.

    The number of rounds below the true median is binomial with one half. With fewer than six
    rounds no two of them enclose it often enough, and the interval is unbounded.
    """
    values = sorted(ratios)
    count = len(values)
    middle = count // 2
    median = values[middle] if count % 2 else (values[middle - 1] * values[middle]) ** 0.5
    tail, rank = 0.0, 0
    while rank < middle:
        tail += math.comb(count, rank) / 2**count
        if 2 * tail > 1 - LEVEL:
            break
        rank += 1
    if rank == 0:
        return Ratio(median, 0.0, math.inf)
    return Ratio(median, values[rank - 1], values[count - rank])


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The revision's files in a folder that is gone afterwards."""
    try:
        git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except SystemExit as error:
        raise SystemExit(
            f"REF={revision} names no commit of this repository; give a branch, a tag or a commit "
            f"({error})"
        ) from error
    with tempfile.TemporaryDirectory(prefix="hcnr-compare-") as folder:
        path = Path(folder, "checkout")
        git("worktree", "add", "--quiet", "--detach", str(path), revision)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def bring_extension(other: Path, revision: str) -> bool:
    """Lend the compiled extension to the other checkout where both are of one source.

    Returns:
        Whether it may be used; else both run without.
    """
    built = list((ROOT / "kernels" / "hcnr_kernels").glob("_native*.so"))
    same = not git("diff", "--name-only", revision, "--", "csrc", "setup.py").strip()
    if built and same:
        for file in built:
            shutil.copy(file, other / "kernels" / "hcnr_kernels")
    return bool(built) and same


class Timer(Protocol):
    """What races: the seconds of one call, or why it does not run."""

    def time(self, index: int) -> float | str: ...


class Contender:
    """A process that times calls of one checkout."""

    def __init__(self, root: Path, *, native: bool) -> None:
        paths = [str(root), str(root / "kernels")]
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment = {**inherited, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
                       "PYTHONSAFEPATH": "1"}  # fmt: skip
        script = str(Path(__file__).with_name("contenders.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, str(root), *(() if native else ("--without-extension",))],
            cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.names: list[str] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self._process.wait()}; see above")
        return json.loads(line)

    def time(self, index: int) -> float | str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(TIME_UP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def race(ours: Timer, theirs: Timer, index: int, rounds: int) -> Ratio | str:
    """One call of both in turns; why there is no ratio where one of them cannot run it."""
    for side, contender in (("here", ours), ("there", theirs)):
        first = contender.time(index)
        if isinstance(first, str):
            return f"does not run {side}: {first}"
    ratios = []
    for turn in range(rounds):
        order = (ours, theirs) if turn % 2 else (theirs, ours)
        seconds = {contender: contender.time(index) for contender in order}
        if any(isinstance(value, str) for value in seconds.values()):
            return "failed in a later run"
        ratios.append(float(seconds[ours]) / float(seconds[theirs]))
    return interval(ratios)


def described(ratio: Ratio | str) -> str:
    if isinstance(ratio, str):
        return ratio
    text = f"{ratio.median:5.2f}x  [{ratio.low:.2f}, {ratio.high:.2f}]"
    if ratio.high < 1:
        return f"{text}  faster"
    return f"{text}  slower" if ratio.low > 1 else text


def committed_counts(revision: str) -> dict[str, Any]:
    """Rows of the committed table of a revision; none before there was one."""
    name = "bench/tracking/counts.json"
    if not git("ls-tree", "--name-only", revision, name).strip():
        return {}
    return json.loads(git("show", f"{revision}:{name}"))["rows"]


def main(arguments: Sequence[str] | None = None) -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m bench.tracking.compare", description=__doc__, formatter_class=plain
    )
    parser.add_argument("revision", help="a commit, branch or tag to compare with")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="calls whose name holds this")
    asked = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(checkout(asked.revision))
        native = bring_extension(other, asked.revision)
        print(f"this checkout over {asked.revision}, {asked.rounds} rounds in turns, one thread, "
              f"{'with' if native else 'without'} the compiled extension\n")  # fmt: skip
        both = []
        for root in (ROOT, other):
            contender = Contender(root, native=native)
            stack.callback(contender.close)
            both.append(contender)
        ours, theirs = both
        for index, name in enumerate(ours.names):
            if asked.only in name:
                print(f"{name:48} {described(race(ours, theirs, index, asked.rounds))}", flush=True)
    from bench.tracking.table import COUNTS, differences, load

    before, now = committed_counts(asked.revision), load(COUNTS)["rows"]
    lines = differences(before, now) if before else ["the other revision has no table of counts"]
    print("\ncounts, as committed:", *(lines or ["all alike"]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
