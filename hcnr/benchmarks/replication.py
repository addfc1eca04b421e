"""Builds the data sets of a replication, without a seed: the same files give the same bytes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hcnr.benchmarks.pools import (
    RAIT_SIZE,
    TASK_SIZE,
    honesty_samples,
    parse_puqa,
    parse_triviaqa,
    rait_samples,
    sample,
)
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.selfchecks import COUNTS, Check, check_all, read_lines
from hcnr.benchmarks.sources import SOURCES, SourceReader
from hcnr.benchmarks.splits import HONESTY_SETS, TASK_SETS, Splits
from hcnr.checkpoint.output import check_output, output_directory
from hcnr.errors import DataError

# Begins with hcnr_, by which --overwrite knows a directory of ours.
RECORD = "hcnr_replication.json"


@dataclass(frozen=True)
class Replication:
    """What was built.

    Attributes:
        directory: where.
        checks: the self-checks, all passed.
        files: number of lines by file.
    """

    directory: Path
    checks: tuple[Check, ...]
    files: Mapping[str, int]


def build_replication(
    data_root: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    rait: bool = False,
    overwrite: bool = False,
    is_refusal: Callable[[str, str], bool] | None = None,
) -> Replication:
    """Write the replication's data sets, once all of them pass their self-checks.

    - `honesty-128.jsonl` and `TASK-128.jsonl`: what `hcnr restore` takes;
    - `pools/`: all that they were chosen from, samples of `prompt, response`;
    - `evaluation/`: the evaluation sets, `question, answerable, answers, prompt`;
    - `rait-5000.jsonl`: a pool to train refusals with, where `rait` is set;
    - `hcnr_replication.json`: hashes, counts and self-checks.

    Args:
        data_root: folder with the authors' files; by default `$HCNR_DATA_ROOT`.
        out: directory to write; appears whole or not at all.
        rait: also write the RAIT pool.
        overwrite: whether an earlier result may be replaced.
        is_refusal: (response, question) -> whether the response is a refusal, which targets are
            tested with; by default the detector `unknownbench_keywords`.

    Raises:
        DataError: a file is missing or not the known one, or a self-check fails.
        OutputError: `out` cannot be written.
    """
    if is_refusal is None:
        from hcnr.detectors import open_detector

        is_refusal = open_detector("unknownbench_keywords")
    reader = SourceReader(data_root)
    # Said before the work, and again when writing.
    check_output(out, inputs=[reader.root], overwrite=overwrite)
    further = ("alignment_for_honesty/puqa.jsonl", "triviaqa/test_subsample.jsonl")
    reader.check([path for path in SOURCES if rait or path not in further])
    contents = _contents(reader, is_refusal, rait)
    with output_directory(out, inputs=[reader.root], overwrite=overwrite) as work:
        for name, rows in contents.items():
            _write(work / name, rows)
        checks = check_all(work, is_refusal, COUNTS)
        failed = [f"{check.name}: {check.finding}" for check in checks if not check.passed]
        if failed:
            raise DataError(
                f"the replication data fails {len(failed)} of its self-checks "
                f"({'; '.join(failed)}); nothing was written, report this as a defect"
            )
        files = {name: len(read_lines(work / name)) for name in contents}
        record = {
            "format": 1,
            "sources": dict(sorted(reader.files.items())),
            "files": {
                name: {
                    "lines": count,
                    "sha256": hashlib.sha256((work / name).read_bytes()).hexdigest(),
                }
                for name, count in files.items()
            },
            "checks": [asdict(check) for check in checks],
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (work / RECORD).write_text(text, encoding="utf-8")
    return Replication(Path(out).expanduser(), tuple(checks), files)


def _contents(
    reader: SourceReader, is_refusal: Callable[[str, str], bool], rait: bool
) -> dict[str, Iterable[dict[str, Any]]]:
    splits = Splits(reader)
    kuq, pairs = splits.kuq_training(), splits.falseqa_training()
    pools = {
        "kuq": [sample(item.question) | {"category": item.category} for item in kuq],
        "falseqa": [
            one
            for pair in pairs
            for one in (sample(pair.false) | {"rebuttals": pair.rebuttals}, sample(pair.true))
        ],
        **{name: [sample(q) for q in splits.task_training(name)] for name in TASK_SETS},
    }
    contents: dict[str, Iterable[dict[str, Any]]] = {
        "honesty-128.jsonl": honesty_samples(kuq, pairs, is_refusal),
        **{f"{name}-{TASK_SIZE}.jsonl": pools[name][:TASK_SIZE] for name in TASK_SETS},
        **{f"pools/{name}.jsonl": rows for name, rows in pools.items()},
        **{
            f"evaluation/{name}.jsonl": map(Question.record, splits.evaluation(name))
            for name in HONESTY_SETS + TASK_SETS
        },
    }
    if rait:
        puqa = splits.without_evaluation(parse_puqa(reader("alignment_for_honesty/puqa.jsonl")))
        trivia = splits.without_evaluation(parse_triviaqa(reader("triviaqa/test_subsample.jsonl")))
        contents[f"rait-{RAIT_SIZE}.jsonl"] = rait_samples(
            pools["kuq"] + pools["falseqa"], puqa, trivia, is_refusal
        )
    return contents


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
