"""What must hold of replication data sets, checked on the files as they were written."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.pools import GROUP, RAIT_SIZE, TASK_SIZE
from hcnr.benchmarks.splits import ONE_SOURCE
from hcnr.data.overlap import QuestionIndex

Rows = list[dict[str, Any]]

# Unanswerable and answerable questions of each file.
COUNTS: dict[str, tuple[int, int]] = {
    "evaluation/falseqa.jsonl": (686, 686),
    "evaluation/nec.jsonl": (2077, 2071),
    "evaluation/refunq.jsonl": (2173, 2266),
    "evaluation/kuq.jsonl": (1740, 2252),
    "evaluation/selfaware.jsonl": (1032, 2333),
    "evaluation/hotpotqa.jsonl": (0, 1441),
    "evaluation/nq.jsonl": (0, 3575),
    "evaluation/medmcqa.jsonl": (0, 845),
    "evaluation/bioasq.jsonl": (0, 184),
    "pools/kuq.jsonl": (716, 970),
    "pools/falseqa.jsonl": (1141, 1141),
    "pools/hotpotqa.jsonl": (0, 5948),
    "pools/nq.jsonl": (0, 5085),
    "pools/medmcqa.jsonl": (0, 1962),
    "pools/bioasq.jsonl": (0, 1173),
}


@dataclass(frozen=True)
class Check:
    """One self-check.

    Attributes:
        name: what was checked.
        passed: whether it holds.
        finding: what was seen, in words.
    """

    name: str
    passed: bool
    finding: str


def read_lines(path: Path) -> Rows:
    """Read a file that was written as one object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def check_all(
    directory: Path,
    is_refusal: Callable[[str, str], bool],
    counts: Mapping[str, tuple[int, int]],
) -> list[Check]:
    """Check everything in a directory that `build_replication` wrote.

    Args:
        directory: where the files are.
        is_refusal: (response, question) -> whether the response is a refusal.
        counts: expected unanswerable and answerable questions by file.
    """
    files = {
        path.relative_to(directory).as_posix(): read_lines(path)
        for path in sorted(directory.rglob("*.jsonl"))
    }
    evaluation = {name: rows for name, rows in files.items() if name.startswith("evaluation/")}
    training = {name: rows for name, rows in files.items() if name not in evaluation}
    return [
        *_counts(files, counts),
        *_sizes(training),
        *_overlap(training, evaluation),
        *_targets(training, is_refusal),
    ]


def _counts(files: Mapping[str, Rows], expected: Mapping[str, tuple[int, int]]) -> Iterator[Check]:
    for name, count in expected.items():
        counts = Counter(row["answerable"] for row in files.get(name, []))
        pair = counts[False], counts[True]
        text = f"{pair[0]} unanswerable + {pair[1]} answerable"
        wanted = "" if pair == count else f", expected {count[0]} + {count[1]}"
        yield Check(f"count of {name}", pair == count, text + wanted)


def _sizes(training: Mapping[str, Rows]) -> Iterator[Check]:
    for name, rows in training.items():
        if name.startswith("honesty"):
            groups = Counter((row["set"], row["answerable"]) for row in rows)
            text = " + ".join(
                f"{count} {kind} {'answerable' if answerable else 'unanswerable'}"
                for (kind, answerable), count in sorted(groups.items())
            )
            yield Check(f"composition of {name}", list(groups.values()) == [GROUP] * 4, text)
        elif not name.startswith("pools/"):
            size = RAIT_SIZE if name.startswith("rait") else TASK_SIZE
            yield Check(f"size of {name}", len(rows) == size, f"{len(rows)} samples of {size}")


def _overlap(training: Mapping[str, Rows], evaluation: Mapping[str, Rows]) -> Iterator[Check]:
    indices = {
        name: QuestionIndex(row["question"] for row in rows) for name, rows in evaluation.items()
    }
    for name, rows in training.items():
        equal = similar = alike = 0
        for other, index in indices.items():
            task = Path(other).stem
            own = task in ONE_SOURCE and Path(name).stem.removesuffix(f"-{TASK_SIZE}") == task
            for row in rows:
                if index.equal(row["question"]):
                    equal += 1
                elif index.near(row["question"]):
                    alike += own
                    similar += not own
        text = f"{equal} equal, {similar} equal after replacing one token"
        if alike:
            text += f"; {alike} follow a pattern of their own task's evaluation (allowed)"
        yield Check(f"overlap of {name} with every evaluation set", equal + similar == 0, text)


def _targets(
    training: Mapping[str, Rows], is_refusal: Callable[[str, str], bool]
) -> Iterator[Check]:
    for name, rows in training.items():
        refusals = [row for row in rows if not row["answerable"]]
        fired = sum(
            is_refusal(row["response"], row["question"]) for row in rows if row["answerable"]
        )
        if not refusals:
            # A fact to know: a yes/no question's right answer may be "No".
            text = f"{fired} of {len(rows)} answers are refusals to the detector (allowed)"
            yield Check(f"targets of {name}", True, text)
            continue
        missed = sum(not is_refusal(row["response"], row["question"]) for row in refusals)
        text = f"{missed} of {len(refusals)} refusals are none, {fired} answers are refusals"
        if fired and name.startswith("pools/"):
            text += " (left out of what is chosen from the pool)"
        passed = not missed and (not fired or name.startswith("pools/"))
        yield Check(f"targets of {name}", passed, text)
